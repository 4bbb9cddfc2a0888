"""A native decoder that hangs: nothing but the end of the process interrupts it. Whose it is, and that end.

The process dies of SIGABRT in the very thread that hangs, so that the crash journal accuses its frame as if it had crashed.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping

log = logging.getLogger(__name__)

# Of the time between two looks: a process that was stopped, or waited for a core, has decoded nothing meanwhile.
MOST_BETWEEN_S = 2.0


class Patience:
    """How long each thread has been at its picture, as far as it was looked at. Pure; times are monotonic seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waited: dict[tuple[int, float], float] = {}  # by thread and when it began
        self._looked_at = float("inf")

    def look(self, inside: Mapping[int, float], now: float) -> int | None:
        """A thread at one picture for too long, by its ident, if there is one. `inside`: since when each thread is."""
        passed = min(max(0.0, now - self._looked_at), MOST_BETWEEN_S)
        self._looked_at = now
        self._waited = {key: self._waited.get(key, -passed) + passed for key in inside.items()}
        return next((ident for (ident, _), waited in self._waited.items() if waited > self.seconds), None)


def end_in(ident: int, seconds: float) -> None:
    """End the process in this thread of it."""
    log.critical(
        "a picture was not decoded within %g s (decode.deadline_ms): ending the process in the thread that hangs",
        seconds,
    )
    signal.pthread_kill(ident, signal.SIGABRT)
