"""Runs the ideal side: finds the best arrangement of the cores by a short calibration, then measures it as asked.

Same clock as the streaming sides (see clock.py), with a frame complete when its batch's scores lie in memory.
"""

from __future__ import annotations

import itertools

import msgspec

from benchmarks.clock import Run, window
from benchmarks.cpu import CpuSampler
from benchmarks.rig import Rig, say
from benchmarks.sides import child
from benchmarks.sides.ideal import Arrangement, IdealResult, IdealSpec

BATCHES = (1, 8, 16)
CALIBRATION_ROUNDS = 2
_TIMEOUT_S = 900.0
_STOP_S = 5.0

_number = itertools.count(1)


def ways_of_using(cores: int) -> list[Arrangement]:
    """A process for each core, a thread for each core, or one session over all of them; the largest batch."""
    ways = sorted({(cores, 1, 1), (1, cores, 1), (1, 1, cores)}, reverse=True)
    return [Arrangement(*way, max(BATCHES)) for way in ways]


def best_arrangement(rig: Rig, model: str, cores: int, frames: int) -> dict[Arrangement, float]:
    """Frames a second of each arrangement tried over `frames` frames, the fastest first.

    First the use of the cores is chosen, by the better of two runs each, because a chance disturbance here would set the
    standard too low; then the batch size for that use.
    """
    rates: dict[Arrangement, float] = {}

    def measure(arrangement: Arrangement) -> None:
        run, _ = ideal_run(rig, model, arrangement, frames)
        rates[arrangement] = max(run.window.frames_per_second, rates.get(arrangement, 0.0))
        say(f"ideal, {arrangement}: {rates[arrangement]:.1f} frames/s")

    for arrangement in ways_of_using(cores) * CALIBRATION_ROUNDS:
        measure(arrangement)
    fastest = max(rates, key=rates.__getitem__)
    for batch in BATCHES:
        if batch != fastest.batch:
            measure(msgspec.structs.replace(fastest, batch=batch))
    return dict(sorted(rates.items(), key=lambda item: -item[1]))


def ideal_run(rig: Rig, model: str, arrangement: Arrangement, frames: int) -> tuple[Run, dict[int, int]]:
    """The measured run, and frame number -> class of the highest score."""
    result = rig.folder / f"ideal-{next(_number)}.json"
    onnx = rig.model_folder(model) / "1" / "model.onnx"
    spec = IdealSpec(arrangement, str(rig.frames_file), str(onnx), str(rig.model_folder(model)), frames, str(result))
    process = child.start("ideal", spec, rig.folder)
    try:
        with CpuSampler({"ideal": process.pid}) as sampler:
            outcome = child.wait_result(process, result, IdealResult, _TIMEOUT_S)
    finally:
        process.stop(_STOP_S)
    measured = window(outcome.completions)
    return Run(measured, sampler.series.between(measured.start, measured.end)), outcome.top1
