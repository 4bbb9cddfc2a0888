"""`latency`: from produced to predicted, p50 and p99, at half of what the worker can take.

First the capacity is measured over a topic that lies full, and how long Triton alone takes for a full batch. Then frames
come evenly at half of that rate from a process of their own. A frame's latency runs from just before the producer's send
to the broker's append of its prediction. `p99_ratio` is p99 / (batching deadline + one batch's service time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import tritonclient.grpc as triton

from benchmarks.broker import Appended
from benchmarks.clock import WARM_UP_SHARE, Run, Window
from benchmarks.cpu import CpuSampler
from benchmarks.options import Options
from benchmarks.report import side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.sides import child
from benchmarks.sides.producer import ProducerResult, ProducerSpec
from benchmarks.spread import spread
from benchmarks.stream import delete_outputs, new_way, stream_run, wait_predictions
from benchmarks.worker_side import start_worker
from worker.preprocess.contract import Contract
from worker.settings import Settings

MODEL = "efficientnet_lite2"
ROUNDS, ROUNDS_QUICK = 5, 3
ROUND_S, ROUND_QUICK_S = 60.0, 20.0
CAPACITY_FRAMES, CAPACITY_FRAMES_QUICK = 1024, 384
LOAD = 0.5  # of the capacity
SERVICE_BATCHES = 10
READY_FRAMES = 32  # sent before the clock starts: their predictions say that the worker is up
# The broker's append times are cut to whole milliseconds: latencies are taken to the end of that millisecond.
APPEND_RESOLUTION_S = 0.001
_STOP_S = 20.0
_PRODUCER_SPARE_S = 120.0


@dataclass(frozen=True, slots=True)
class Round:
    """One round's latencies in ms, ascending, what the producer's lateness was (p99, ms), and the run itself."""

    latencies_ms: list[float]
    service_ms: float
    producer_late_ms: float
    run: Run


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and what they were made of."""
    with started_rig([MODEL]) as rig:
        capacity_frames = options.frames or (CAPACITY_FRAMES_QUICK if options.quick else CAPACITY_FRAMES)
        rig.broker.create("backlog")
        rig.broker.fill("backlog", rig.corpus.cycle(capacity_frames))
        full = stream_run(rig, "worker", "backlog", capacity_frames, lambda way: [start_worker(rig, MODEL, way)])
        capacity = full.run.window.frames_per_second
        rate = LOAD * capacity
        frames = options.frames or math.ceil(rate * (ROUND_QUICK_S if options.quick else ROUND_S))
        say(f"capacity {capacity:.1f} frames/s; offering {rate:.1f}")
        rounds = []
        for number in range(options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
            rounds.append(_round(rig, f"paced-{number}", frames, rate, service_ms(rig)))
            p99 = percentile(rounds[-1].latencies_ms, 99)
            say(f"round {number + 1}: p99 {p99:.1f} ms, service {rounds[-1].service_ms:.1f} ms")
        return {
            **figures(rounds, Settings().batching.linger_ms),
            "offered_frames_per_second": round(rate, 2),
            "capacity_frames_per_second": round(capacity, 2),
            "frames": rig.corpus.source,
            "frames_per_run": frames,
            "broker": rig.broker_name,
            "model": MODEL,
        }


def figures(rounds: Sequence[Round], deadline_ms: float) -> dict[str, Any]:
    """The contract's keys out of the rounds."""
    p99 = [percentile(one.latencies_ms, 99) for one in rounds]
    runs = [one.run for one in rounds]
    row = side_row(runs)
    return {
        **spread([percentile(one.latencies_ms, 50) for one in rounds]).keys("p50_ms"),
        **spread(p99).keys("p99_ms"),
        **spread([ms / (deadline_ms + one.service_ms) for ms, one in zip(p99, rounds, strict=True)]).keys("p99_ratio"),
        **spread([one.service_ms for one in rounds]).keys("service_ms"),
        "batching_deadline_ms": deadline_ms,
        "producer_late_p99_ms": round(max(one.producer_late_ms for one in rounds), 2),
        "cpu_s_per_1000": row["cpu_s_per_1000"],
        "sides": {"worker": row},
    }


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The least value that `percent` of all do not exceed (nearest rank): one that was really measured."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def latencies_ms(records: Sequence[Appended], sent: Sequence[float]) -> list[float]:
    """Ascending, without the warm-up's frames. `sent` by frame number. Raises KeyError if a frame has no prediction."""
    appended = {number: record.at for record in records if (number := identity(record)) is not None}
    first = math.ceil(len(sent) * WARM_UP_SHARE)
    return sorted(1000 * (appended[n] + APPEND_RESOLUTION_S - sent[n]) for n in range(first, len(sent)))


def identity(record: Appended) -> int | None:
    """The number its producer gave a prediction's frame; None where it gave none."""
    frame_id = msgspec.json.decode(record.value, type=_Identity).frame_id
    return None if frame_id is None else int(frame_id)


def service_ms(rig: Rig) -> float:
    """How long Triton holds a full batch when it has nothing else to do, by its own statistics: mean of 10."""
    client = triton.InferenceServerClient(rig.triton.grpc_url)
    contract = Contract.load(rig.model_folder(MODEL) / "preprocess.toml")
    shape = (Settings().batching.max_batch_size, *contract.tensor_shape)
    tensor = triton.InferInput("image", list(shape), "UINT8")
    tensor.set_data_from_numpy(np.zeros(shape, np.uint8))
    outputs = [triton.InferRequestedOutput("logits")]
    before = _served(client)
    for _ in range(SERVICE_BATCHES):
        client.infer(MODEL, [tensor], outputs=outputs)
    after = _served(client)
    client.close()
    return (after[1] - before[1]) / (after[0] - before[0]) / 1e6


def _served(client: Any) -> tuple[int, int]:
    """Requests answered so far, and nanoseconds from their arrival to their answer."""
    (statistics_,) = client.get_inference_statistics(MODEL).model_stats
    return statistics_.inference_stats.success.count, statistics_.inference_stats.success.ns


class _Identity(msgspec.Struct, frozen=True):
    frame_id: str | None


def _round(rig: Rig, topic: str, frames: int, rate: float, service: float) -> Round:
    rig.broker.create(topic)
    way = new_way(rig, topic, "worker")
    result = rig.folder / f"{topic}.json"
    spec = ProducerSpec(rig.broker.bootstrap_servers, topic, str(rig.frames_file), frames, rate, str(result))
    processes = [start_worker(rig, MODEL, way)]
    try:
        rig.broker.fill(topic, rig.corpus.cycle(READY_FRAMES))
        wait_predictions(rig, way, READY_FRAMES, processes)
        processes.append(child.start("producer", spec, rig.folder))
        roots = rig.roots | {"worker": processes[0].pid, "producer": processes[1].pid}
        with CpuSampler(roots) as sampler:
            produced = child.wait_result(processes[1], result, ProducerResult, frames / rate + _PRODUCER_SPARE_S)
            wait_predictions(rig, way, READY_FRAMES + frames, processes[:1])
    finally:
        for process in processes:
            process.stop(_STOP_S)
    records = rig.broker.appended(way.predictions)
    delete_outputs(rig, way)
    first = math.ceil(frames * WARM_UP_SHARE)
    window = Window(produced.sent[first], max(record.at for record in records), frames - first)
    late = [1000 * (sent - due) for sent, due in zip(produced.sent, produced.due, strict=True)]
    return Round(
        latencies_ms(records, produced.sent),
        service,
        percentile(sorted(late), 99),
        Run(window, sampler.series.between(window.start, window.end)),
    )
