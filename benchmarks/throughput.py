"""`throughput`: the worker end to end against the ideal, and against the loops people write. Real model, real servers.

All sides get the same frames, the same preprocessing contract and the same graph, and are read off the same clock.
`efficiency` is worker / ideal in frames a second: 1 would mean that broker, transport, records and bookkeeping cost
nothing. `cpu_efficiency` is the same by CPU time: the ideal's a frame / that of worker, Triton and broker together; it
says what `efficiency` would be with every core busy, and holds where the machine is shared. `vs_loop` and `vs_loop_2x16`
are worker / loop in frames a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.broker import PARTITIONS
from benchmarks.clock import Run
from benchmarks.ideal import best_arrangement, ideal_run
from benchmarks.options import Options
from benchmarks.report import cpu_row, side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.sides import child
from benchmarks.sides.peer import PeerSpec
from benchmarks.spread import interleaved, paired_ratio, spread
from benchmarks.stream import Way, stream_run
from benchmarks.variants import Variant
from benchmarks.worker_side import start_worker
from worker.embedded.process import ServerProcess

MODEL = "efficientnet_lite2"
BATCH = 16
ROUNDS, ROUNDS_QUICK = 5, 3
# How long a side of the ideal's speed is measured in a round; the batch-1 loop gets a third of the frames.
SIDE_S, SIDE_QUICK_S = 30.0, 7.0
CALIBRATION_FRAMES, CALIBRATION_FRAMES_QUICK = 384, 96
LOOP_SHARE = 3
LEAST_FRAMES = 64  # below it a window holds no more than one batch in flight


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and the rows of each side."""
    shipped = options.model or MODEL
    # The loops and the ideal decode at full size, and so must the worker, whatever the contract allows.
    full = Variant(f"{shipped}_full_decode", shipped, {"scaled_decode": False})
    model = full.name
    with started_rig([], [full]) as rig:
        cores = len(os.sched_getaffinity(0))
        calibration = CALIBRATION_FRAMES_QUICK if options.quick else CALIBRATION_FRAMES
        tried = best_arrangement(rig, model, cores, min(calibration, options.frames or calibration))
        arrangement, rate = next(iter(tried.items()))
        frames = options.frames or max(
            LEAST_FRAMES * LOOP_SHARE, int(rate * (SIDE_QUICK_S if options.quick else SIDE_S))
        )
        loop_frames = max(LEAST_FRAMES, frames // LOOP_SHARE)
        for topic, count in (("frames", frames), ("frames.loop", loop_frames)):
            rig.broker.create(topic)
            rig.broker.fill(topic, rig.corpus.cycle(count))
        top1: dict[str, Mapping[int, int]] = {}

        def ideal() -> Run:
            run, top1["ideal"] = ideal_run(rig, model, arrangement, frames)
            return run

        def streaming(
            side: str, topic: str, count: int, start: Callable[[Way], Sequence[ServerProcess]]
        ) -> Callable[[], Run]:
            def measured() -> Run:
                done = stream_run(rig, side, topic, count, start)
                top1[side] = top1_of(record.value for record in done.records)
                return done.run

            return measured

        sides: dict[str, Callable[[], Run]] = {
            "worker": streaming("worker", "frames", frames, lambda way: [start_worker(rig, model, way)]),
            "ideal": ideal,
            "loop": streaming("loop", "frames.loop", loop_frames, lambda way: _loops(rig, way, model, 1, 1)),
            "loop_2x16": streaming("loop_2x16", "frames", frames, lambda way: _loops(rig, way, model, 2, BATCH)),
        }
        runs: dict[str, list[Run]] = {side: [] for side in sides}
        for number, side, run in interleaved(sides, options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS)):
            say(f"round {number + 1}, {side}: {run.window.frames_per_second:.1f} frames/s")
            runs[side].append(run)
        return {
            **figures(runs),
            "same_top1_as_ideal": {side: agreement(top1[side], top1["ideal"]) for side in sides if side != "ideal"},
            "ideal_arrangement": str(arrangement),
            "ideal_arrangements_tried": {str(way): round(fps, 1) for way, fps in tried.items()},
            "frames": rig.corpus.source,
            "frame_kib": round(rig.corpus.mean_kib, 1),
            "frames_per_run": {"loop": loop_frames, "others": frames},
            "broker": rig.broker_name,
            "model": shipped,
        }


def figures(runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """The contract's keys out of the rounds of each side."""
    rates = {side: [run.window.frames_per_second for run in of_side] for side, of_side in runs.items()}
    cpu = {side: [sum(run.cpu_s_per_1000.values()) for run in of_side] for side, of_side in runs.items()}
    return {
        **paired_ratio(rates["worker"], rates["ideal"]).keys("efficiency"),
        **paired_ratio(cpu["ideal"], cpu["worker"]).keys("cpu_efficiency"),
        **paired_ratio(rates["worker"], rates["loop"]).keys("vs_loop"),
        **paired_ratio(rates["worker"], rates["loop_2x16"]).keys("vs_loop_2x16"),
        **spread(rates["worker"]).keys("frames_per_second"),
        "cpu_s_per_1000": cpu_row(runs["worker"]),
        "sides": {side: side_row(of_side) for side, of_side in runs.items()},
    }


def _loops(rig: Rig, way: Way, model: str, processes: int, batch: int) -> list[ServerProcess]:
    spec = PeerSpec(
        bootstrap_servers=rig.broker.bootstrap_servers,
        frames_topic=way.frames,
        predictions_topic=way.predictions,
        group=way.group,
        triton_url=rig.triton.grpc_url,
        model=model,
        model_folder=str(rig.model_folder(model)),
        batch=batch,
    )
    return [child.start("loop", spec, rig.folder) for _ in range(processes)]


class _Class(msgspec.Struct, frozen=True):
    index: int


class _Prediction(msgspec.Struct, frozen=True):
    """What worker and loop records share."""

    id: str
    classes: list[_Class]


def top1_of(values: Iterable[bytes]) -> dict[int, int]:
    """Frame number -> class of the highest score. The broker was filled in turn, so the id tells the number."""
    found = {}
    for value in values:
        prediction = msgspec.json.decode(value, type=_Prediction)
        _, partition, offset = prediction.id.rsplit("/", 2)
        found[int(offset) * PARTITIONS + int(partition)] = prediction.classes[0].index
    return found


def agreement(side: Mapping[int, int], ideal: Mapping[int, int]) -> float:
    """Share of the frames both answered that got the same class: sides that differ much don't do the same work."""
    both = side.keys() & ideal.keys()
    return round(sum(side[number] == ideal[number] for number in both) / max(1, len(both)), 4)
