"""What the worker does when partitions come and go: the `Rebalance` of `worker.ingest.partitions`.

Called on the client's I/O thread, in the middle of the poll thread's work; what they share is in the ledger, under its lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from worker.batching import FrameQueue
from worker.frames import SourcePartition
from worker.observe.metrics import Metrics, Rebalance
from worker.pipeline.books import Books, weight
from worker.pipeline.core import Failure
from worker.pipeline.publishing import Publishing

# Of the drain's grace, for what comes after it where nothing answers any more: a commit, the group, producer, model server.
LEAVE_S = 6.0


@dataclass(eq=False, slots=True)
class Beginning:
    """A partition that is to begin, in this assignment of it; `tried_at` is when the broker last did not say where."""

    tried_at: float = 0.0


class Grace:
    """How long what is under way may take once `stop` is set: `seconds`, from the first time that somebody asks; after a failure, none."""

    def __init__(self, stop: threading.Event, failure: Failure, drain_grace_ms: int) -> None:
        self._stop = stop
        self._failure = failure
        self.seconds = max(drain_grace_ms / 1000 - LEAVE_S, drain_grace_ms / 2000)
        self._end = float("inf")

    def over(self) -> bool:
        """Whether it is."""
        if self._end == float("inf") and self._stop.is_set():
            self._end = time.monotonic() + self.seconds
        return self._failure.happened or time.monotonic() > self._end


class HandOver:
    """`unreadable` are the partitions stopped at a record."""

    def __init__(self, queue: FrameQueue, books: Books, publishing: Publishing, metrics: Metrics, grace: Grace) -> None:
        self._queue = queue
        self._books = books
        self._publishing = publishing
        self._metrics = metrics
        self._grace = grace
        self._new: dict[SourcePartition, Beginning] = {}  # that the poll thread has to begin; under the ledger's lock
        self.unreadable: set[SourcePartition] = set()

    def epoch(self, source: SourcePartition) -> int:
        """The epoch new frames carry; -1 is admitted nowhere."""
        with self._books.ledger() as ledger:
            epoch = ledger.epoch(source)
        return -1 if epoch is None else epoch

    def assigned(self, sources: Collection[SourcePartition]) -> None:
        """The poll thread begins them, since it takes questions to the broker."""
        self._metrics.rebalance(Rebalance.ASSIGNED)
        if sources:
            self._publishing.refresh()  # before the poll thread can admit their first frame
        with self._books.ledger():
            self._new.update({source: Beginning() for source in sources})

    def begin_again(self, sources: Iterable[SourcePartition]) -> None:
        """Forget what is under way of these and ask the broker where they begin, unless they went away just now."""
        with self._books.ledger() as ledger:
            ours = ledger.sources & set(sources)
            ledger.revoke(ours)
            self._new.update({source: Beginning() for source in ours})

    def new(self) -> list[tuple[SourcePartition, Beginning]]:
        """Partitions to begin, each with what `begun` takes; those not tried yet, then those whose try is longest ago."""
        with self._books.ledger():
            return sorted(self._new.items(), key=lambda each: each[1].tried_at)

    def begun(self, source: SourcePartition, asked: Beginning, start: int) -> bool:
        """Let frames of this partition in, from `start` on.

        False, if the partition went away since `asked`, perhaps to come back: its owner meanwhile may have got past `start`.
        """
        with self._books.ledger() as ledger:
            if self._new.get(source) is not asked:
                return False
            del self._new[source]
            ledger.assign(source, start)
        return True

    def revoking(self, sources: Collection[SourcePartition]) -> None:
        """Frames not yet taken go to the next owner; those taken are finished here."""
        self._metrics.rebalance(Rebalance.REVOKED)
        self.drop_waiting(sources, handed_over=True)

    def drained(self, sources: Collection[SourcePartition]) -> dict[SourcePartition, int] | None:
        """Offsets to commit once nothing of these is under way, or the worker has to end; None while there is to wait."""
        with self._books.ledger() as ledger:
            if (not self._publishing.seal(ledger, sources) and ledger.settled(sources)) or self._grace.over():
                return {done.source: done.end for done in ledger.commits(sources)}
        return None

    def lost(self, sources: Collection[SourcePartition]) -> None:
        """Taken without asking: nothing of them may be committed any more."""
        self._metrics.rebalance(Rebalance.LOST)
        self.revoked(sources)

    def revoked(self, sources: Collection[SourcePartition]) -> None:
        """Late outcomes of these are discarded from now on."""
        with self._books.ledger() as ledger:
            ledger.revoke(sources)
            for source in sources:
                self._new.pop(source, None)
        self.drop_waiting(sources, handed_over=False)
        self._publishing.forget(sources)
        self.unreadable.difference_update(sources)

    def drop_waiting(self, sources: Collection[SourcePartition], handed_over: bool) -> None:
        """Take frames of these partitions out of the queue; handed over, each partition ends for us where they began."""
        with self._books.ledger() as ledger:
            if handed_over:
                ledger.closing(sources)
            dropped = self._queue.discard(sources)
            self._books.budget.release(sum(map(weight, dropped)))
            if handed_over:
                first: dict[SourcePartition, int] = {}
                for frame in dropped:
                    if frame.epoch == ledger.epoch(frame.source):  # of an older epoch: says nothing about this entry
                        first.setdefault(frame.source, frame.offset)
                for source, offset in first.items():
                    ledger.truncate(source, offset)
