"""One submitted batch and its deadline: the caller hears of it once, and the slot is held until nothing reads it.

Engines make a `Call` for each submission and a `Timer` for all of them. Two parties race to tell the caller, the thread
that receives answers and the timer; the first wins, the other's news is dropped.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from worker.buffers import Slot
from worker.errors import HeadraceError, InferenceTimedOut
from worker.frames import Answer
from worker.infer.engine import Done

log = logging.getLogger(__name__)


class Call:
    """A submission on its way. Takes a hold on the slot, which `end` lets go. Times are monotonic seconds."""

    __slots__ = ("_done", "_lock", "deadline", "endpoint", "rows", "slot", "submitted_at")

    def __init__(self, slot: Slot, rows: int, deadline: float, done: Done, endpoint: str) -> None:
        slot.hold()
        self.slot = slot
        self.rows = rows
        self.deadline = deadline
        self.endpoint = endpoint
        self.submitted_at = time.monotonic()
        self._done: Done | None = done
        self._lock = threading.Lock()

    @property
    def told(self) -> bool:
        """Whether the caller has heard already, so that an answer would be dropped."""
        return self._done is None

    def end(self, outcome: Answer | HeadraceError) -> None:
        """Nothing reads the slot any more: let it go, and tell the caller unless it was told."""
        self.slot.let_go()
        done = self._claim()
        if done is not None:
            _tell(done, outcome)

    def expire(self) -> None:
        """The deadline is here: tell the caller, and keep the hold for whatever still reads the slot."""
        done = self._claim()
        if done is not None:
            self.slot.quarantine()
            waited = time.monotonic() - self.submitted_at
            _tell(done, InferenceTimedOut(f"{self.endpoint} did not answer within {waited:.2f} s, the deadline."))

    def _claim(self) -> Done | None:
        with self._lock:
            done, self._done = self._done, None
        return done


def _tell(done: Done, outcome: Answer | HeadraceError) -> None:
    try:
        done(outcome)
    except Exception:  # it is the caller's own failure, and must not end the thread that serves all callers
        log.exception("The receiver of an answer failed.")


class Timer:
    """One thread that runs actions at their times (monotonic seconds). Actions must be cheap and may not raise."""

    def __init__(self, name: str) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # ties run in order, and actions are never compared
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Run `action` at `when`, or at once if that is past. After `close` nothing runs."""
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), action))
            if self._heap[0][0] == when:
                self._changed.notify()

    def close(self) -> None:
        """End the thread; what is still to come is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                action = heapq.heappop(self._heap)[2]
            action()
