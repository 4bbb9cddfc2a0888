"""A circuit breaker for one endpoint: outcomes of its tries go in, out comes whether batches may go there. Pure.

It opens when lately too many tries failed, or at one failure that says all. After a pause a probe goes to the endpoint in
place of frames, and the probe alone decides whether it closes. The clock is passed in: monotonic seconds.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, IntEnum

WINDOW = 10  # tries that are remembered
FAILURES = 5  # so many of them failed: an endpoint that fails every second batch is given up after ten
ON_PROBATION = (
    2  # until it has stood a whole window since it was open: what fails half of all would else cost five each time
)
FIRST_PAUSE_S = 0.1  # a connection that only blinked is back at once
LAST_PAUSE_S = 2.0  # an endpoint that is back waits no longer than this for its first batch


class State(IntEnum):
    """The higher, the less gets through; also the value of the metric `breaker_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Event(Enum):
    """What moves a breaker."""

    TRIPPED = "tripped"  # too many failures, or one that says all
    COOLED = "cooled"  # the pause is over, a probe goes
    WELL = "well"  # it was answered
    ILL = "ill"  # it was not


TRANSITIONS = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.WELL): State.CLOSED,
    (State.HALF_OPEN, Event.ILL): State.OPEN,
}


class Breaker:
    """Starts closed. Outcomes of tries that were sent before it opened may come in any state, and change nothing then."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.probe_at = 0.0  # while open: when the pause is over
        self._pause_s = FIRST_PAUSE_S
        self._failed: deque[bool] = deque(maxlen=WINDOW)

    def succeeded(self) -> None:
        """The endpoint answered a batch."""
        if self.state is State.CLOSED:
            self._remember(failed=False)

    def failed(self, now: float, *, decisive: bool = False) -> None:
        """It did not; `decisive` if that alone says that it is down, as a lost connection or a missed deadline does."""
        if self.state is State.CLOSED:
            self._remember(failed=True)
            most = FAILURES if self._pause_s == FIRST_PAUSE_S else ON_PROBATION
            if decisive or sum(self._failed) >= most:
                self._move(Event.TRIPPED, now)

    def begin_probe(self, now: float) -> None:
        """A probe is on its way. Raises ValueError unless it is open and its pause is over."""
        if now < self.probe_at:
            raise ValueError("the pause is not over")
        self._move(Event.COOLED, now)

    def probed(self, now: float, *, well: bool) -> None:
        """The probe came back. Raises ValueError if none was on its way."""
        self._move(Event.WELL if well else Event.ILL, now)

    def _remember(self, failed: bool) -> None:
        self._failed.append(failed)
        # A pause grows until the endpoint has stood a whole window: one that takes probes and fails batches gets few.
        if len(self._failed) == WINDOW and sum(self._failed) < FAILURES:
            self._pause_s = FIRST_PAUSE_S

    def _move(self, event: Event, now: float) -> None:
        if (self.state, event) not in TRANSITIONS:
            raise ValueError(f"a breaker that is {self.state.name} can't be {event.value}")
        self.state = TRANSITIONS[self.state, event]
        self._failed.clear()
        if self.state is State.OPEN:
            self.probe_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
