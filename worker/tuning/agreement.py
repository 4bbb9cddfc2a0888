"""Whether a picture decoded at a smaller scale means the same to a model as the whole one. Pure.

Pairs of what came of the same frame both ways go in, an `Agreement` comes out: what was seen, and whether it is enough
for the contract to allow scaled decoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Below it a classifier does not know what it sees, and the smallest change of anything changes its first choice.
CONFIDENT = 0.3
LEAST_SAME_TOP1 = 0.99
MOST_GREY_LEVELS = 2.0
# Fewer confident frames show nothing about a hundredth of them.
LEAST_CONFIDENT = 100


@dataclass(frozen=True, slots=True)
class Pair:
    """One frame: mean absolute difference of the two inputs in grey levels, and what the model saw in each of them.

    `confidence` is the score of `whole_top1`, the first choice on the picture that was decoded at full size.
    """

    grey_levels: float
    whole_top1: int
    scaled_top1: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all pairs: how many there were, how many were confident, how many of those kept their first choice."""

    frames: int
    confident: int
    same_top1: int
    grey_levels: float
    worst_grey_levels: float

    @property
    def is_judged(self) -> bool:
        """Whether there was enough to see."""
        return self.confident >= LEAST_CONFIDENT

    @property
    def passes(self) -> bool:
        """Whether scaled decoding may be allowed. Never on too few confident frames."""
        kept = self.same_top1 >= LEAST_SAME_TOP1 * self.confident
        return self.is_judged and kept and self.grey_levels < MOST_GREY_LEVELS

    def __str__(self) -> str:
        share = f"{100 * self.same_top1 / self.confident:.1f} %" if self.confident else "none"
        return (
            f"{self.frames} frames differ by {self.grey_levels:.2f} grey levels in the mean ({self.worst_grey_levels:.2f} at "
            f"most), and {share} of {self.confident} confident ones keep their class"
        )


def agreement(pairs: Iterable[Pair]) -> Agreement:
    """Of pairs in any order; none give an agreement that does not pass."""
    found = list(pairs)
    confident = [pair for pair in found if pair.confidence > CONFIDENT]
    levels = [pair.grey_levels for pair in found] or [0.0]
    return Agreement(
        len(found),
        len(confident),
        sum(pair.whole_top1 == pair.scaled_top1 for pair in confident),
        sum(levels) / len(levels),
        max(levels),
    )
