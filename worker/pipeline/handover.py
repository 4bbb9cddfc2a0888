"""What the worker does when partitions come and go: the `Rebalance` of `worker.ingest.partitions`.

Called on the client's I/O thread, in the middle of the poll thread's work; what they share is in the ledger, under its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from worker.batching import FrameQueue
from worker.frames import SourcePartition
from worker.observe.metrics import Metrics, Rebalance
from worker.pipeline.books import Books, weight
from worker.pipeline.publishing import Publishing


class HandOver:
    """`new` are partitions that the poll thread has to begin, `unreadable` those stopped at a record."""

    def __init__(self, queue: FrameQueue, books: Books, publishing: Publishing, metrics: Metrics) -> None:
        self._queue = queue
        self._books = books
        self._publishing = publishing
        self._metrics = metrics
        self.new: deque[SourcePartition] = deque()
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
        self.new.extend(sources)

    def revoking(self, sources: Collection[SourcePartition]) -> None:
        """Frames not yet taken go to the next owner; those taken are finished here."""
        self._metrics.rebalance(Rebalance.REVOKED)
        self.drop_waiting(sources, handed_over=True)

    def drained(self, sources: Collection[SourcePartition]) -> dict[SourcePartition, int] | None:
        """Offsets to commit once nothing of these is under way; None while something is."""
        with self._books.ledger() as ledger:
            if not self._publishing.seal(ledger, sources) and ledger.settled(sources):
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
