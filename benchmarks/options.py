"""What the command line says to a benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`quick` keeps the whole run under four minutes. `frames` and `rounds` overrule a benchmark's own, for trials."""

    quick: bool = False
    frames: int | None = None
    rounds: int | None = None
