"""What the command line says to a benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """`quick` keeps the whole run under four minutes. `frames`, `rounds` and `model` overrule a benchmark's own, for trials."""

    quick: bool = False
    frames: int | None = None
    rounds: int | None = None
    model: str | None = None
