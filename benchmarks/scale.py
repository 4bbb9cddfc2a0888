"""`scale`: does a frame cost more CPU where there is more of something? The worker alone, with a model that answers at once.

Four axes: worker processes, partitions, backlog of small records, bytes of a frame. Along each the points run in turn, and
`growth_<axis>` is the worker's CPU a frame at the last point / at the first. A larger frame must cost more, so that axis
stands beside the decoder's own curve: `growth_sizes_decoder` is the bare decoder's CPU, last / first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.broker import PARTITIONS
from benchmarks.clock import Run, Window
from benchmarks.corpus import SIZES, mosaic, sized
from benchmarks.decode import decoding_ms
from benchmarks.options import Options
from benchmarks.report import short, side_row
from benchmarks.rig import Rig, say, started_rig
from benchmarks.spread import interleaved, paired_ratio
from benchmarks.stream import stream_run
from benchmarks.worker_side import start_worker

MODEL = "null"
WORKERS = (1, 2, 3, 4)
PARTITION_COUNTS = (1, 4, 16, 64)
BACKLOGS, BACKLOGS_QUICK = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000)
SMALL = (32, 32)  # pixels: a JPEG of less than 1 KB
SMALL_FRAMES = 100  # different ones
# A backlog of 1,000 is gone in half a second: its runs are repeated until this many frames are measured.
LEAST_MEASURED = 4_000
FRAMES, FRAMES_QUICK = 6_000, 1_200
# Frames of a size that lie ready: no more than are read in a round, in bytes of no more than half a gigabyte.
BYTES, BYTES_QUICK = 512 * 2**20, 256 * 2**20
ROUNDS, ROUNDS_QUICK = 3, 1
ROUND_S, ROUND_QUICK_S = 10.0, 2.5
DECODER_S = 0.5
# All workers join at once: those that came late would stall the first by a heartbeat each.
BROKER_SETTINGS = {"group.initial.rebalance.delay.ms": "1000"}

Point = Callable[[], Run]


@dataclass(frozen=True, slots=True)
class _Amounts:
    frames: int
    bytes_: int
    seconds: float
    rounds: int


def measure(options: Options) -> dict[str, Any]:
    """Run it; the keys of the contract and a row for each point of each axis."""
    amounts = _Amounts(
        options.frames or (FRAMES_QUICK if options.quick else FRAMES),
        BYTES_QUICK if options.quick else BYTES,
        ROUND_QUICK_S if options.quick else ROUND_S,
        options.rounds or (ROUNDS_QUICK if options.quick else ROUNDS),
    )
    with started_rig([MODEL], broker_settings=BROKER_SETTINGS) as rig:
        axes = {
            "workers": _workers(rig, amounts),
            "partitions": _partitions(rig, amounts),
            "backlog": _backlog(rig, BACKLOGS_QUICK if options.quick else BACKLOGS, amounts),
        }
        runs = {axis: _runs(axis, dict(points), amounts.rounds) for axis, points in axes.items()}
        corpora = {size: sized(rig.corpus, size) for size in SIZES}
        decoder = {
            size: decoding_ms(
                rig.folder, frames, ["simplejpeg_reused_buffer"], 1, DECODER_S, amounts.rounds, tuned=True
            )
            for size, frames in corpora.items()
        }
        runs["sizes"] = _runs("sizes", dict(_sizes(rig, amounts)), amounts.rounds)
        return {
            **figures(runs, {size: ms["simplejpeg_reused_buffer"] for size, ms in decoder.items()}),
            "frame_kib": {size: round(frames.mean_kib, 1) for size, frames in corpora.items()},
            "frames": rig.corpus.source,
            "broker": rig.broker_name,
            "model": MODEL,
        }


def figures(
    runs: Mapping[str, Mapping[str, Sequence[Run]]], decoder_ms: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """The contract's keys; `runs` by axis, then point in ascending order, then round."""
    keys: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for axis, points in runs.items():
        own = {point: [run.cpu_s_per_1000["worker"] for run in of_point] for point, of_point in points.items()}
        first, *_, last = own
        keys |= paired_ratio(own[last], own[first]).keys(f"growth_{axis}")
        for point, of_point in points.items():
            rows[f"{axis} {point}"] = side_row(of_point)
    first, *_, last = decoder_ms
    keys |= paired_ratio(decoder_ms[last], decoder_ms[first]).keys("growth_sizes_decoder")
    for size, values in decoder_ms.items():
        rows[f"sizes {size}"]["cpu_s_per_1000"]["decoder alone"] = short(sum(values) / len(values))
    return {**keys, "sides": rows}


def pooled(runs: Sequence[Run]) -> Run:
    """Several short runs as one: their frames, their time and their CPU together."""
    seconds = sum(run.window.seconds for run in runs)
    roles = runs[0].cpu_s
    return Run(
        Window(0.0, seconds, sum(run.window.frames for run in runs)),
        {role: sum(run.cpu_s[role] for run in runs) for role in roles},
    )


def _runs(axis: str, points: Mapping[str, Point], rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {point: [] for point in points}
    for number, point, run in interleaved(points, rounds):
        say(f"round {number + 1}, {axis} {point}: {run.cpu_s_per_1000['worker']:.3f} CPU ms a frame")
        runs[point].append(run)
    return runs


def _run(rig: Rig, topic: str, frames: int, seconds: float, workers: int = 1) -> Run:
    return stream_run(
        rig, "worker", topic, frames, lambda way: [start_worker(rig, MODEL, way) for _ in range(workers)], seconds
    ).run


def _workers(rig: Rig, amounts: _Amounts) -> Iterator[tuple[str, Point]]:
    topic = _filled(rig, "workers", rig.corpus.cycle(amounts.frames), PARTITIONS)
    for number in WORKERS:
        yield str(number), partial(_run, rig, topic, amounts.frames, amounts.seconds, number)


def _partitions(rig: Rig, amounts: _Amounts) -> Iterator[tuple[str, Point]]:
    for count in PARTITION_COUNTS:
        topic = _filled(rig, f"partitions-{count}", rig.corpus.cycle(amounts.frames), count)
        yield str(count), partial(_run, rig, topic, amounts.frames, amounts.seconds)


def _backlog(rig: Rig, backlogs: Sequence[int], amounts: _Amounts) -> Iterator[tuple[str, Point]]:
    small = mosaic(rig.corpus, *SMALL, SMALL_FRAMES)
    for backlog in backlogs:
        topic = _filled(rig, f"backlog-{backlog}", small.cycle(backlog), PARTITIONS)
        times = math.ceil(min(LEAST_MEASURED, amounts.frames) / backlog)
        yield str(backlog), partial(_repeated, partial(_run, rig, topic, backlog, amounts.seconds), times)


def _repeated(point: Point, times: int) -> Run:
    return pooled([point() for _ in range(times)])


def _sizes(rig: Rig, amounts: _Amounts) -> Iterator[tuple[str, Point]]:
    for size in SIZES:
        frames = sized(rig.corpus, size)
        count = min(amounts.frames, int(amounts.bytes_ / (1024 * frames.mean_kib)))
        topic = _filled(rig, f"size-{size}", frames.cycle(count), PARTITIONS)
        yield size, partial(_run, rig, topic, count, amounts.seconds)


def _filled(rig: Rig, topic: str, frames: Iterator[bytes], partitions: int) -> str:
    rig.broker.create(topic, partitions)
    rig.broker.fill(topic, frames)
    return topic
