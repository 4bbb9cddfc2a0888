"""Who meets whom in `peers`, and the ratios that come of it. Pure: rates in, entrants and figures out.

An entrant is a side in one number of processes with one malloc. Trials choose each side's number of processes and the
fastest sides; those then run in turn with the worker, and only those rounds make ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.spread import Spread, paired_ratio

Rounds = Mapping["Entrant", Sequence[float]]  # frames a second of each round


@dataclass(frozen=True, slots=True)
class Entrant:
    """`tuned`: malloc is told by its environment variables to keep big buffers."""

    side: str
    processes: int
    tuned: bool = False

    def __str__(self) -> str:
        return f"{self.side} x {self.processes}" + (", malloc tuned" if self.tuned else "")


def entrants(sides: Iterable[str], processes: Sequence[int], tuned: bool = False) -> list[Entrant]:
    """Each side in each number of processes."""
    return [Entrant(side, number, tuned) for side in sides for number in processes]


def is_choice(candidates: Sequence[Entrant], places: int) -> bool:
    """Whether there is anything for trials to decide."""
    sides = {entrant.side for entrant in candidates}
    return len(candidates) > len(sides) or len(sides) > places


def winners(trials: Mapping[Entrant, float], places: int) -> list[Entrant]:
    """The fastest sides, each in its best number of processes, the fastest first. `trials`: frames a second."""
    best: dict[str, Entrant] = {}
    for entrant in sorted(trials, key=lambda entrant: -trials[entrant]):
        best.setdefault(entrant.side, entrant)
    return list(best.values())[:places]


def fastest(rounds: Rounds) -> Entrant:
    """By the median over the rounds."""
    return max(rounds, key=lambda entrant: statistics.median(rounds[entrant]))


def against_best(ours: Rounds, peers: Rounds) -> Spread:
    """Our fastest entrant / the fastest peer, within each round."""
    return paired_ratio(ours[fastest(ours)], peers[fastest(peers)])


def figures(setting: str, ours: Rounds, peers: Rounds) -> dict[str, float]:
    """`vs_best_<setting>` against the peers as they come, `vs_best_tuned_<setting>` against those with malloc tuned."""
    plain = {entrant: rates for entrant, rates in peers.items() if not entrant.tuned}
    tuned = {entrant: rates for entrant, rates in peers.items() if entrant.tuned}
    return {
        **against_best(ours, plain).keys(f"vs_best_{setting}"),
        **against_best(ours, tuned).keys(f"vs_best_tuned_{setting}"),
    }
