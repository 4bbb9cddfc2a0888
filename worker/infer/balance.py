"""Which endpoint gets the next batch: the one with the fewest on their way, and of equals the one that waited longest. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """One endpoint: batches on their way, how many it may have (0: none, its breaker is not closed), its last turn."""

    in_flight: int
    limit: int
    last_turn: int


def choose(loads: Sequence[Load]) -> int | None:
    """Index of the endpoint to send to; None if none has room."""
    free = [index for index, load in enumerate(loads) if load.in_flight < load.limit]
    return min(free, key=lambda index: (loads[index].in_flight, loads[index].last_turn), default=None)
