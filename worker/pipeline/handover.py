"""What the worker does when partitions come and go: the `Rebalance` of `worker.ingest.partitions`.

Called on the client's I/O thread, in the middle of the poll thread's work; what they share is in the ledger, under its lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from worker.batching import FrameQueue
from worker.frames import SourcePartition
from worker.observe.metrics import Metrics, Rebalance
from worker.pipeline.books import Books, weight
from worker.pipeline.publishing import Publishing


class HandOver:
    """`unreadable` are the partitions stopped at a record."""

    def __init__(self, queue: FrameQueue, books: Books, publishing: Publishing, metrics: Metrics) -> None:
        self._queue = queue
        self._books = books
        self._publishing = publishing
        self._metrics = metrics
        self._new: dict[SourcePartition, object] = {}  # that the poll thread has to begin; under the ledger's lock
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
            self._new.update({source: object() for source in sources})

    def begin_again(self, sources: Iterable[SourcePartition]) -> None:
        """Forget what is under way of these and ask the broker where they begin, unless they went away just now."""
        with self._books.ledger() as ledger:
            ours = ledger.sources & set(sources)
            ledger.revoke(ours)
            self._new.update({source: object() for source in ours})

    def new(self) -> dict[SourcePartition, object]:
        """Partitions to begin, each with what `begun` takes."""
        with self._books.ledger():
            return dict(self._new)

    def begun(self, source: SourcePartition, asked: object, start: int) -> bool:
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
