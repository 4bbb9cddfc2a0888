"""From measured runs to the arrangement to use, and why. Pure.

Frames a second decide. What differs by less than the runs themselves do counts as equal: then the arrangement that costs
less CPU, memory and delay is taken.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.tuning.arrangements import Arrangement

# Two runs of one arrangement differed by up to this much on an idle machine.
NOISE = 0.03
CPU_NOISE = 0.05
HOPELESS = 0.85  # of the fastest: not run again
WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: frames a second, and CPU milliseconds a frame of worker and model server together."""

    frames_per_second: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a question came to."""

    arrangement: Arrangement
    measured: Measured
    reason: str


Results = Mapping[Arrangement, Sequence[Measured]]


def median(runs: Sequence[Measured]) -> Measured:
    """Each figure's own. Raises statistics.StatisticsError without runs."""
    return Measured(
        statistics.median(run.frames_per_second for run in runs), statistics.median(run.cpu_ms for run in runs)
    )


def worth_another_run(results: Results) -> list[Arrangement]:
    """Those not beaten beyond hope, in the order they are in."""
    best = max(median(runs).frames_per_second for runs in results.values())
    return [each for each, runs in results.items() if median(runs).frames_per_second >= HOPELESS * best]


def choose(results: Results) -> Choice:
    """The arrangement to go on with. Raises ValueError without any."""
    medians = {each: median(runs) for each, runs in results.items()}
    fastest = max(medians, key=lambda each: medians[each].frames_per_second)
    top = medians[fastest].frames_per_second
    equal = [each for each, seen in medians.items() if seen.frames_per_second >= (1 - NOISE) * top]
    fewest = min(each.processes for each in equal)
    equal = [each for each in equal if each.processes == fewest]
    least_cpu = min(medians[each].cpu_ms for each in equal)
    chosen = min(each for each in equal if medians[each].cpu_ms <= (1 + CPU_NOISE) * least_cpu)
    return Choice(chosen, medians[chosen], _reason(chosen, fastest, medians))


def _reason(chosen: Arrangement, fastest: Arrangement, medians: Mapping[Arrangement, Measured]) -> str:
    ours, best = medians[chosen], medians[fastest]
    text = f"{describe(chosen)}: {ours.frames_per_second:.1f} frames/s"
    if chosen != fastest:
        ahead = best.frames_per_second / ours.frames_per_second - 1
        return (
            f"{text}; {describe(fastest)} was {ahead:.1%} ahead, which is within the noise, and takes more memory, CPU or "
            "delay"
        )
    others = [each for each in medians if each != chosen]
    if not others:
        return f"{text}; nothing else to try"
    second = max(others, key=lambda each: medians[each].frames_per_second)
    behind = 1 - medians[second].frames_per_second / ours.frames_per_second
    if behind < NOISE:
        return f"{text}; {describe(second)} was as fast ({-behind:+.1%}) and is no simpler"
    return f"{text}; the next, {describe(second)}, was {behind:.1%} slower"


def describe(arrangement: Arrangement) -> str:
    """In words; what is not ours to set is left out."""
    engines = f"{arrangement.engines} engine{'s' * (arrangement.engines > 1)}, " if arrangement.engines else ""
    return (
        f"{arrangement.processes} x {arrangement.threads} decode threads, {engines}"
        f"batch {arrangement.batch}, {arrangement.in_flight} in flight"
    )


def measured(outcomes: Sequence[tuple[float, int]], cpu: Sequence[tuple[float, float]]) -> Measured:
    """A run read off: `outcomes` are (seconds, generation of the group that made it), `cpu` (seconds, CPU seconds so far).

    Only the group's last generation counts, when all processes were in it, and of that not the first tenth. Raises
    ValueError if that leaves fewer than two moments.
    """
    last = max((generation for _, generation in outcomes), default=0)
    begun = min((at for at, generation in outcomes if generation == last), default=0.0)
    times = sorted(at for at, _ in outcomes if at >= begun)
    start = times[math.ceil(len(times) * WARM_UP_SHARE)] if times else 0.0
    counted = len(times) - bisect.bisect_right(times, start)
    if not counted:
        raise ValueError(f"{len(outcomes)} outcomes are too few to measure a rate: send more frames")
    end = times[-1]
    spent = _at(cpu, end) - _at(cpu, start)
    return Measured(counted / (end - start), 1000 * spent / counted)


def _at(samples: Sequence[tuple[float, float]], instant: float) -> float:
    """Linear between samples, the nearest beyond them."""
    right = bisect.bisect_left(samples, (instant, 0.0))
    if right == 0 or right == len(samples):
        return samples[min(right, len(samples) - 1)][1]
    (t0, c0), (t1, c1) = samples[right - 1], samples[right]
    return c0 + (c1 - c0) * (instant - t0) / (t1 - t0)
