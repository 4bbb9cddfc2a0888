"""From frames to batches: by size or by deadline, whichever is first.

`BatchRule` decides, pure; `FrameQueue` is the thread-safe queue between the poll thread and the decode threads. A
decode thread takes a whole batch, with a slot already in hand, and the batch's number is given under the lock that takes
the frames: order costs nothing and nothing can deadlock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from worker.frames import Frame, SourcePartition


@dataclass(frozen=True, slots=True)
class BatchRule:
    """At most `max_batch_size` frames; a lone frame waits at most `linger_s` seconds from its arrival."""

    max_batch_size: int
    linger_s: float

    def wait_s(self, waiting: int, oldest_received_at: float, now: float) -> float:
        """Seconds until a batch may leave; 0 or less: now. `waiting` frames, the oldest arrived at `oldest_received_at`."""
        if waiting >= self.max_batch_size:
            return 0.0
        return oldest_received_at + self.linger_s - now


@dataclass(frozen=True, slots=True)
class Taken:
    """Frames of one batch, in source order; `number` orders batches as they were taken."""

    number: int
    frames: tuple[Frame, ...]
    at: float


class FrameQueue:
    """Frames waiting for a decode thread. `clock` gives monotonic seconds."""

    def __init__(self, rule: BatchRule, clock: Callable[[], float]) -> None:
        self._rule = rule
        self._clock = clock
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._next_number = 0
        self._flushing = False
        self._closed = False

    def offer(self, frames: Sequence[Frame]) -> None:
        """A chunk arrives; never blocks (the budget bounds what is polled)."""
        with self._changed:
            self._frames.extend(frames)
            self._changed.notify_all()

    def take(self) -> Taken | None:
        """The next batch, waiting for it; None once closed. One batch's frames are consecutive arrivals."""
        with self._changed:
            while not self._closed:
                if not self._frames:
                    self._changed.wait()
                    continue
                now = self._clock()
                wait_s = self._rule.wait_s(len(self._frames), self._frames[0].received_at, now)
                if wait_s > 0 and not self._flushing:
                    self._changed.wait(wait_s)
                    continue
                size = min(len(self._frames), self._rule.max_batch_size)
                taken = Taken(self._next_number, tuple(self._frames.popleft() for _ in range(size)), now)
                self._next_number += 1
                return taken
            return None

    def discard(self, sources: Collection[SourcePartition]) -> list[Frame]:
        """Take the waiting frames of these partitions out; returns them in order of arrival."""
        with self._changed:
            dropped = [frame for frame in self._frames if frame.source in sources]
            if dropped:
                self._frames = deque(frame for frame in self._frames if frame.source not in sources)
            return dropped

    def flush(self) -> None:
        """From now on nothing waits for company: no more frames are coming."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wake the takers; each gets None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._frames)
