"""Runs one side that reads frames from the broker and writes predictions to it, and measures it by the broker's clock.

A fresh predictions topic and consumer group for each run; the frames lie ready. The side's processes are started, the
predictions counted until all are there, the processes ended; then the append times give the window and the CPU samples
are read off within it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.broker import Appended
from benchmarks.clock import Run, window
from benchmarks.cpu import CpuSampler
from benchmarks.rig import Rig
from worker.embedded.process import ServerProcess
from worker.errors import FramesLost

_POLL_S = 0.1
_STALL_S = 180.0  # no side is silent that long unless it is broken, not even where ten others want the cores
_STOP_S = 20.0

_number = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Way:
    """Names of one run: where it reads, where it writes, and as which group."""

    frames: str
    predictions: str
    dead_letters: str
    statistics: str
    group: str


@dataclass(frozen=True, slots=True)
class StreamRun:
    """The measured run, and the records it wrote."""

    run: Run
    records: Sequence[Appended]


def new_way(rig: Rig, frames_topic: str, side: str) -> Way:
    """Fresh output topics for a side over the given frames."""
    tag = f"{side}-{next(_number)}"
    way = Way(frames_topic, f"{tag}.predictions", f"{tag}.dlq", f"{tag}.stats", tag)
    for topic in (way.predictions, way.dead_letters, way.statistics):
        rig.broker.create(topic)
    return way


def delete_outputs(rig: Rig, way: Way) -> None:
    """Remove what `new_way` made."""
    rig.broker.delete([way.predictions, way.dead_letters, way.statistics])


def stream_run(
    rig: Rig,
    side: str,
    frames_topic: str,
    frames: int,
    start: Callable[[Way], Sequence[ServerProcess]],
    seconds: float = math.inf,
) -> StreamRun:
    """Start the side over `frames` frames that lie on `frames_topic`, and measure it.

    With `seconds` it is stopped so long after its first predictions and measured up to there, the rest of the frames
    unread: sides of very different speeds then take the same time. Raises DependencyError with the process's log if it
    dies, FramesLost if it stalls short of all the frames or writes a dead letter (every frame of the corpus is good).
    """
    way = new_way(rig, frames_topic, side)
    processes = list(start(way))
    try:
        roots = rig.roots | {f"{side}{number or ''}": process.pid for number, process in enumerate(processes)}
        with CpuSampler(roots) as sampler:
            end = wait_predictions(rig, way, frames, processes, seconds)
    finally:
        for process in processes:
            process.stop(_STOP_S)
    records = [record for record in rig.broker.appended(way.predictions) if record.at <= end]
    delete_outputs(rig, way)
    measured = window([record.at for record in records])
    cpu_s = sampler.series.between(measured.start, measured.end)
    own = sum(cpu_s.pop(role) for role in list(cpu_s) if role not in rig.roots)
    return StreamRun(Run(measured, {side: own} | cpu_s), records)


def wait_predictions(
    rig: Rig, way: Way, frames: int, processes: Sequence[ServerProcess], seconds: float = math.inf
) -> float:
    """Return, with the time of day, once the way's predictions topic holds `frames` records, or `seconds` after its first.

    Raises as `stream_run` does.
    """
    done, changed, deadline = -1, time.monotonic(), math.inf
    while done < frames and time.monotonic() < deadline:
        for process in processes:
            process.check_alive()
        now_done = rig.broker.count(way.predictions)
        if now_done != done:
            done, changed = now_done, time.monotonic()
            if done > 0:
                deadline = min(deadline, changed + seconds)
        elif time.monotonic() - changed > _STALL_S:
            tails = "\n".join(process.tail() for process in processes)
            dead = rig.broker.count(way.dead_letters)
            raise FramesLost(f"{done} of {frames} predictions and {dead} dead letters, then nothing more:\n{tails}")
        time.sleep(_POLL_S)
    if done > frames:
        raise FramesLost(f"{done} predictions for {frames} frames")
    return time.time()
