"""Ratios between sides that ran in turn, with their spread: rounds in, `key`, `key_low`, `key_high` out. Pure.

A round's sides run within a minute of each other, so what slows the machine slows them together: ratios are taken
within a round, and the rounds' ratios give the figure (their median) and its spread (least and greatest).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of a figure over the rounds."""

    value: float
    low: float
    high: float

    def keys(self, name: str) -> dict[str, float]:
        """`{name, name_low, name_high}` with four significant digits."""
        return {name: _round(self.value), f"{name}_low": _round(self.low), f"{name}_high": _round(self.high)}


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError without values."""
    if not values:
        raise ValueError("a spread needs at least one round")
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Spread of numerator / denominator within each round. Raises ValueError if the rounds don't pair or one is 0."""
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} rounds of one side can't pair with {len(denominators)} of the other")
    if any(denominator == 0 for denominator in denominators):
        raise ValueError("a side that took or did nothing gives no ratio")
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def interleaved(sides: Mapping[str, Callable[[], T]], rounds: int) -> Iterator[tuple[int, str, T]]:
    """Run A B C, then B C A, then C A B: (round, side, its result) as each ends.

    The first side moves from round to round, so that none always follows the same neighbour's heat and cache.
    """
    names = list(sides)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            yield number, name, sides[name]()


def _round(value: float) -> float:
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))
