"""What follows a failed try of a batch, and how many may follow. Pure.

Retries are paid from a bucket that first tries fill: when endpoints fail, at most a fifth is added to their load, however
many batches wait. Times are monotonic seconds, passed in.
"""

from __future__ import annotations

from enum import Enum

EARNED = 0.2  # of a retry, by each first try
MOST = 10.0  # retries saved up in good times: more than one endpoint's batches, lost at once
# When every slot holds a failed batch no first try earns anything: then one retry may go each so many seconds.
ALMS_EVERY_S = 2.0
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 2.0


class RetryBudget:
    """Starts empty, so the bound holds from the first batch on: retries <= first tries / 5 + seconds / 2 + 1."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._spent_at = float("-inf")

    def earn(self) -> None:
        """A batch is tried for the first time."""
        self._tokens = min(self._tokens + EARNED, MOST)

    def spend(self, now: float) -> bool:
        """Whether a batch may be tried once more; if so it is paid for."""
        if self._tokens >= 1:
            self._tokens -= 1
        elif now < self._spent_at + ALMS_EVERY_S:
            return False
        self._spent_at = now
        return True


class Step(Enum):
    """What becomes of a batch whose try failed."""

    RETRY = "retry"  # to the primary once more, after a backoff
    FALL_BACK = "fall back"  # the simpler model answers
    WAIT = "wait"  # until an endpoint is well: nothing is skipped


def after_failure(budget: RetryBudget, now: float, *, primary_is_up: bool, in_time: bool, has_fallback: bool) -> Step:
    """The next step; a retry is paid from `budget`.

    `primary_is_up`: an endpoint takes batches. `in_time`: a whole try fits into what is left of the batch's deadline.
    """
    if primary_is_up and in_time and budget.spend(now):
        return Step.RETRY
    return Step.FALL_BACK if has_fallback else Step.WAIT


def backoff_s(tries: int) -> float:
    """Seconds before the next try, after so many."""
    return float(min(FIRST_BACKOFF_S * 2.0 ** (tries - 1), LAST_BACKOFF_S))
