"""How many batches one endpoint gets at a time: up by one a round while it keeps up, down by a third when it does not. Pure.

Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain, 1989). It starts at the most there is, so an
endpoint that keeps up is never held back; one that is slow gets what it can answer instead of a queue.
"""

from __future__ import annotations

DECREASE = 0.7


class Limit:
    """Between 1 and `most` batches; an answer that took longer than `slow_s` counts as congestion. Times are monotonic."""

    def __init__(self, most: int, slow_s: float) -> None:
        self._most = most
        self._slow_s = slow_s
        self._value = float(most)
        self._lowered_at = float("-inf")

    @property
    def value(self) -> int:
        """Most batches that may be on their way."""
        return int(self._value)

    def answered(self, now: float, sent_at: float, in_flight: int) -> None:
        """A batch sent at `sent_at`, as one of `in_flight`, has its answer."""
        if now - sent_at > self._slow_s:
            self.congested(now, sent_at)
        elif in_flight >= self.value:  # a limit that was not reached proves nothing about a higher one
            self._value = min(self._value + 1 / self._value, float(self._most))

    def restart(self) -> None:
        """The endpoint was away and is back: one batch first, and more as they are answered."""
        self._value = 1.0

    def congested(self, now: float, sent_at: float) -> None:
        """The endpoint was too busy for it. What was sent before the last decrease is the same congestion, not another."""
        if sent_at >= self._lowered_at:
            self._value = max(1.0, self._value * DECREASE)
            self._lowered_at = now
