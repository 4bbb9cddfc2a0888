"""`overhead`: what the worker adds. CPU a frame with a model that answers at once, against the bare sum of its parts.

The bare sum is the bare client loop (poll every frame, send a small record for each) plus bare decoding and preprocessing
in one thread. `overhead_ratio` is the worker's own process / that sum, with the clients tuned as the worker tunes itself
(malloc, socket reads); `overhead_ratio_plain_client` takes the client loop as the client comes. `overhead_ratio_fast` is the
same with librdkafka on both sides, and `client_ratio_fast` its bare loop / kafka-python's. `statistics_ratio` is the bare cost
of a frame's statistics / the bare sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.clock import Run
from benchmarks.options import Options
from benchmarks.report import side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.sides import child
from benchmarks.sides.bare import BareResult, BareSpec
from benchmarks.sides.client import ClientSpec
from benchmarks.spread import interleaved, paired_ratio, spread
from benchmarks.stream import Way, stream_run
from benchmarks.worker_side import start_worker
from worker.embedded.process import ServerProcess
from worker.ingest.budget import Shares
from worker.settings import Settings

MODEL = "null"
ROUNDS, ROUNDS_QUICK = 5, 3
FRAMES, FRAMES_QUICK = 8000, 2400
BARE_SHARE = 4  # decoding alone needs no warm-up and spreads little: a quarter of the frames
_TIMEOUT_S = 600.0
_STOP_S = 5.0

_number = itertools.count(1)


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and the rows of each side."""
    with started_rig([MODEL]) as rig:
        frames = options.frames or (FRAMES_QUICK if options.quick else FRAMES)
        rig.broker.create("frames")
        rig.broker.fill("frames", rig.corpus.cycle(frames))
        sides: dict[str, Callable[[], Run | BareResult]] = {
            "worker": lambda: stream_run(rig, "worker", "frames", frames, lambda w: [start_worker(rig, MODEL, w)]).run,
            "worker_fast": lambda: _worker_fast(rig, frames),
            "client": lambda: _client(rig, frames, "client"),
            "client_fast": lambda: _client(rig, frames, "client_fast"),
            "bare": lambda: _bare(rig, max(1, frames // BARE_SHARE)),
            "plain_client": lambda: _client(rig, frames, "plain_client"),
        }
        runs: dict[str, list[Run]] = {side: [] for side in sides if side != "bare"}
        bare: list[BareResult] = []
        for number, side, result in interleaved(sides, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
            if isinstance(result, BareResult):
                bare.append(result)
                milliseconds = 1000 * result.prepare_cpu_s / result.frames
            else:
                runs[side].append(result)
                milliseconds = result.cpu_s_per_1000[side]
            say(f"round {number + 1}, {side}: {milliseconds:.3f} CPU ms a frame")
        return {
            **figures(runs, bare),
            "frames": rig.corpus.source,
            "frame_kib": round(rig.corpus.mean_kib, 1),
            "frames_per_run": frames,
            "broker": rig.broker_name,
            "model": MODEL,
        }


def figures(runs: Mapping[str, Sequence[Run]], bare: Sequence[BareResult]) -> dict[str, Any]:
    """The contract's keys out of the rounds of each side."""
    own = {side: [run.cpu_s_per_1000[side] for run in of_side] for side, of_side in runs.items()}
    prepare = [1000 * result.prepare_cpu_s / result.frames for result in bare]
    features = [1000 * result.features_cpu_s / result.frames for result in bare]
    bare_sum = [client + rest for client, rest in zip(own["client"], prepare, strict=True)]
    fast_sum = [client + rest for client, rest in zip(own["client_fast"], prepare, strict=True)]
    plain_sum = [client + rest for client, rest in zip(own["plain_client"], prepare, strict=True)]
    rows = {side: side_row(of_side) for side, of_side in runs.items()}
    rows["bare"] = {
        "cpu_s_per_1000": {
            "decode_and_preprocess": round(spread(prepare).value, 4),
            "statistics": round(spread(features).value, 4),
        },
        "rounds": len(bare),
    }
    return {
        **paired_ratio(own["worker"], bare_sum).keys("overhead_ratio"),
        **paired_ratio(own["worker_fast"], fast_sum).keys("overhead_ratio_fast"),
        **paired_ratio(own["worker"], plain_sum).keys("overhead_ratio_plain_client"),
        **paired_ratio(own["client_fast"], own["client"]).keys("client_ratio_fast"),
        **paired_ratio(features, bare_sum).keys("statistics_ratio"),
        **spread([run.window.frames_per_second for run in runs["worker"]]).keys("frames_per_second"),
        "cpu_s_per_1000": rows["worker"]["cpu_s_per_1000"],
        "sides": rows,
    }


def _worker_fast(rig: Rig, frames: int) -> Run:
    def start(way: Way) -> list[ServerProcess]:
        return [start_worker(rig, MODEL, way, kafka__client="confluent")]

    return stream_run(rig, "worker_fast", "frames", frames, start).run


def _client(rig: Rig, frames: int, side: str) -> Run:
    fetch_bytes = Shares.of(Settings().ingest.max_in_flight_bytes).fetch_bytes

    def start(way: Way) -> list[ServerProcess]:
        tuned = side != "plain_client"
        spec = ClientSpec(rig.broker.bootstrap_servers, way.frames, way.predictions, way.group, fetch_bytes, tuned)
        return [child.start("client_fast" if side == "client_fast" else "client", spec, rig.folder)]

    return stream_run(rig, side, "frames", frames, start).run


def _bare(rig: Rig, frames: int) -> BareResult:
    result = rig.folder / f"bare-{next(_number)}.json"
    spec = BareSpec(str(rig.frames_file), str(rig.model_folder(MODEL)), frames, str(result))
    process = child.start("bare", spec, rig.folder)
    try:
        return child.wait_result(process, result, BareResult, _TIMEOUT_S)
    finally:
        process.stop(_STOP_S)
