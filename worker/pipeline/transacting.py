"""The publisher for exactly-once: outcomes, their statistics and their source offsets count in one transaction, or none does.

Batches are written as they come while the transaction is open. When it is due, the ranges that its outcomes complete are
cut, their statistics written, and a thread of its own waits for the acknowledgements, sends the offsets and commits;
meanwhile batches wait here. After any failure the producer is made anew, which ends the transaction at the broker, and
the partitions that it touched begin again at their committed offsets.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from worker.errors import DependencyError, Fenced, PublishFailed
from worker.frames import SourcePartition, Stage
from worker.ingest.ledger import Ledger, Range
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books
from worker.pipeline.outcomes import Outcomes
from worker.pipeline.publishing import IDLE_S, Answered, Ended, Item, Publishing, Seal, Sent
from worker.publish.producer import TransactionalProducer
from worker.publish.transactions import State, Transaction
from worker.settings import DeliverySettings

# A process that was stopped finds its deadline past when it goes on, and the answer perhaps in its socket.
WOKEN_S = 1.0


class Transacting(Publishing):
    """As `Publishing`; what it writes is complete and sealed for the ledger as it is sent, committed with its transaction."""

    _producer: TransactionalProducer

    def __init__(
        self,
        producer: TransactionalProducer,
        settings: DeliverySettings,
        outcomes: Outcomes,
        books: Books,
        metrics: Metrics,
        health: Health,
        failed: Callable[[BaseException], None],
    ) -> None:
        super().__init__(producer, outcomes, books, metrics, health, failed)
        self._timeout_s = settings.transaction_timeout_ms / 1000
        self._transaction = Transaction(settings.transaction_length_ms / 1000)
        self._held: deque[Answered] = deque()  # in order, until the commit under way is over
        self._waited_for = False
        self._overdue_since: float | None = None

    def seal(self, ledger: Ledger, sources: Iterable[SourcePartition] | None = None, at_once: bool = True) -> bool:
        """Nothing is cut here: the publisher cuts what its transaction covers. See `Publishing.seal`."""
        if not ledger.settled(sources):
            self._inbox.put(Seal([], at_once))
        return False

    def check(self) -> None:
        """The client waits for the end of a transaction without a limit, and its call can't be taken back."""
        if self._producer.waited_s <= self._timeout_s:
            self._overdue_since = None
            return
        now = time.monotonic()
        if self._overdue_since is None:
            self._overdue_since = now
        if now - self._overdue_since > WOKEN_S:
            raise DependencyError(
                f"the broker has not answered the end of a transaction for {self._timeout_s:g} s "
                f"(delivery.transaction_timeout_ms), so that nobody here knows whether it counts; start the worker again, "
                f"and it goes on where the broker stands"
            )

    def _take(self, item: Item) -> None:
        match item:
            case Answered():
                self._held.extend(self._order.push(item.prepared.number, item))
            case Seal():
                # A look at offsets that moved without a frame can wait for the end of a transaction.
                self._waited_for |= item.at_once or self._transaction.state is State.IDLE
            case Ended():
                self._ended(item.error)
            case _:
                super()._take(item)

    def _advance(self) -> None:
        while self._transaction.state is not State.COMMITTING and not self._ending.is_set():
            if self._transaction.remaining_s(time.monotonic()) == 0:
                self._close()
            elif self._held:
                self._publish(self._held.popleft())
            elif self._waited_for:
                self._waited_for = False
                self._close()
            else:
                return

    def _patience_s(self) -> float:
        return min(IDLE_S, self._transaction.remaining_s(time.monotonic()))

    def _announce(self, sent: Sent) -> None:
        transaction = self._transaction
        if transaction.state is State.IDLE:
            self._producer.begin()
            transaction.begin(time.monotonic())
        if sent.written is None:
            return
        for part in sent.written.parts:
            transaction.wrote(part.source, part.epoch, part.offsets)
        # Not acknowledged yet, and no need to wait: nothing of a transaction counts before all of it is.
        self._outcomes.collect(sent.written)
        with self._books.ledger() as ledger:
            for part in sent.written.parts:
                ledger.complete(part.source, part.epoch, part.offsets)

    def _close(self) -> None:
        closing_at = time.monotonic()  # the statistics are a part of committing
        with self._books.ledger() as ledger:
            ranges = ledger.sealable()
        if not ranges and self._transaction.state is State.IDLE:
            return
        self._send(self._outcomes.statistics(ranges, self._books.generation), ranges=ranges)
        if self._transaction.state is not State.OPEN:  # the send failed, and its partitions have gone back already
            return
        try:
            self._transaction.close(ranges, closing_at)
        except PublishFailed as error:
            self._go_back(error)
            return
        # A thread a commit: one that hangs in the client's endless wait is nobody else's.
        threading.Thread(target=self._commit, args=(ranges,), name="headrace-commit", daemon=True).start()

    def _commit(self, ranges: list[Range]) -> None:
        error: BaseException | None = None
        try:
            offsets = {done.source: done.end for done in ranges}
            self._producer.commit(offsets, lambda: self._membership(ranges))
        except BaseException as failure:
            error = failure
        self._inbox.put(Ended(error))

    def _membership(self, ranges: list[Range]) -> Any:
        """The group metadata, and with it all of these partitions in the epochs they are committed for.

        The metadata first: a worker that was thrown out and has joined again drops its partitions in between, so a
        generation that the broker takes never comes with partitions of an earlier one.
        """
        member = self._books.membership()
        with self._books.ledger() as ledger:
            gone = [done.source for done in ranges if ledger.epoch(done.source) != done.epoch]
        if gone:
            raise PublishFailed(f"{len(gone)} partition(s) were taken away before their offsets could be committed")
        return member

    def _ended(self, error: BaseException | None) -> None:
        if error is not None:
            if not isinstance(error, (PublishFailed, Fenced)):
                raise error
            self._go_back(error)
            return
        now = time.monotonic()
        self._metrics.transaction(self._transaction.age_s(now))
        self._transaction.committed(now)
        self._metrics.committed()
        with self._books.ledger() as ledger:
            for sent in self._pending:
                for done in sent.ranges:
                    ledger.sealed(done)
                    ledger.committed(done)
        for sent in self._pending:
            self._books.budget.release(sent.bytes_out)
            if sent.written is not None:
                self._books.budget.release(sent.written.weight)
                self._outcomes.acknowledged(sent.written)
                self._metrics.stage(Stage.PUBLISH, [now - sent.sent_at])
            if sent.ranges:
                self._metrics.statistics_records(len(sent.futures))
        self._pending.clear()

    def _go_back(self, error: BaseException) -> None:
        # The broker shuts out a producer whose transaction outlived its timeout (a process that was stopped) as it does one
        # whose id another has taken; only the second must leave.
        if isinstance(error, Fenced) and self._transaction.age_s(time.monotonic()) < self._timeout_s:
            raise error
        self._transaction.failed()
        super()._go_back(error)
        self._transaction.renewed()
