"""Whether the worker is alive and whether it is ready, with reasons. Pure state: the clock is passed in.

Roles (poll loop, publisher, ...) leave a heartbeat each time round; one silent for longer than it allowed itself
makes the worker not live, so that it is restarted. Conditions (broker, model, drain) make it not ready for as long as
they are unmet. The admin server reads both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok`, and one sentence for each thing that is not; `heartbeat_age_s` by role (only in answers about life)."""

    ok: bool
    reasons: tuple[str, ...]
    heartbeat_age_s: dict[str, float]


class Health:
    """Shared by all threads of a worker. `conditions` are unmet ("starting") until someone says otherwise."""

    def __init__(self, conditions: Iterable[str] = ("pipeline",), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._unmet = dict.fromkeys(conditions, "starting")
        self._beats: dict[str, float] = {}
        self._max_silence_s: dict[str, float] = {}

    def watch(self, role: str, max_silence_s: float) -> None:
        """From now on `role` must beat at least every `max_silence_s` seconds."""
        with self._lock:
            self._max_silence_s[role] = max_silence_s
            self._beats[role] = self._clock()

    def beat(self, role: str) -> None:
        """`role` went round once more. Cheap: no lock."""
        self._beats[role] = self._clock()

    def unwatch(self, role: str) -> None:
        """`role` has ended as it should."""
        with self._lock:
            self._max_silence_s.pop(role, None)
            self._beats.pop(role, None)

    def met(self, condition: str) -> None:
        """`condition` no longer stands in the way."""
        with self._lock:
            self._unmet.pop(condition, None)

    def unmet(self, condition: str, why: str) -> None:
        """The worker can't do its work until `condition` is met; `why` is for the operator."""
        with self._lock:
            self._unmet[condition] = why

    def live(self) -> Verdict:
        """Not ok if a role has been silent too long."""
        now = self._clock()
        with self._lock:
            limits = dict(self._max_silence_s)
            ages = {role: max(0.0, now - self._beats[role]) for role in limits}
        silent = tuple(
            f"{role} gave no sign of life for {ages[role]:.1f} s; its limit is {limit:g} s"
            for role, limit in limits.items()
            if ages[role] > limit
        )
        return Verdict(not silent, silent, {role: round(age, 3) for role, age in ages.items()})

    def ready(self) -> Verdict:
        """Not ok while a condition is unmet, or the worker is not live."""
        with self._lock:
            unmet = tuple(f"{condition}: {why}" for condition, why in self._unmet.items())
        reasons = unmet + self.live().reasons
        return Verdict(not reasons, reasons, {})
