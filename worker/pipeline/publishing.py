"""The publisher: one thread that puts batches back in order, writes every frame's outcome, and knows what is acknowledged.

answers -> order -> predictions and dead letters -> acknowledgement -> ledger. Ranges that are complete get their
statistics record here, and only when that is acknowledged too may the poll thread commit them. After a failed send the
producer is made anew and every partition with something unacknowledged goes back to its committed offset.
This is at-least-once; `worker.pipeline.transacting` builds exactly-once on it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

from worker.errors import DependencyError, Fenced, HeadraceError, NotAllowed, PublishFailed
from worker.frames import Answer, Prepared, SourcePartition, Stage
from worker.ingest.ledger import Ledger, Range
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.observe.ranges import RANGES
from worker.pipeline.books import Books, weight
from worker.pipeline.outcomes import Outcomes, Written
from worker.publish.messages import Message
from worker.publish.order import Reorder
from worker.publish.producer import Delivery, Producer

log = logging.getLogger(__name__)

# How often acknowledgements are looked at while nothing else arrives.
REAP_S = 0.01
IDLE_S = 0.2
RENEW_BACKOFF_S = 1.0


@dataclass(frozen=True, slots=True)
class Answered:
    prepared: Prepared
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Seal:
    ranges: list[Range]
    at_once: bool


@dataclass(frozen=True, slots=True)
class _Forget:
    sources: Collection[SourcePartition]


@dataclass(frozen=True, slots=True)
class _Refresh:
    pass


@dataclass(frozen=True, slots=True)
class Ended:
    """The commit of a transaction came to its end; `error` None: it counts."""

    error: BaseException | None


Item = Answered | Seal | _Forget | _Refresh | Ended


@dataclass(slots=True)
class Sent:
    """Records on their way: a batch's outcomes, or the statistics of ranges."""

    futures: list[Delivery]
    bytes_out: int
    sent_at: float
    written: Written | None = None
    ranges: list[Range] = field(default_factory=list)


class Publishing:
    """Hand it answers with `answered`, ranges with `seal`; it tells the ledger what is complete and what is sealed."""

    def __init__(
        self,
        producer: Producer,
        outcomes: Outcomes,
        books: Books,
        metrics: Metrics,
        health: Health,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._producer = producer
        self._outcomes = outcomes
        self._books = books
        self._metrics = metrics
        self._health = health
        self._failed = failed
        self._inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._order: Reorder[Answered] = Reorder()
        self._pending: deque[Sent] = deque()  # sent, and not known to count yet
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-publish", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def answered(self, prepared: Prepared, answer: Answer | None) -> None:
        """A batch has its answer; None if no frame of it could be inferred. From any thread."""
        self._inbox.put(Answered(prepared, answer))

    def seal(self, ledger: Ledger, sources: Iterable[SourcePartition] | None = None, at_once: bool = True) -> bool:
        """Bring what is complete, of all partitions or of these, on its way to its commit; True if there is something new.

        From any thread, with the ledger's lock held, so that the seals of a partition are queued in the order they are
        cut. `at_once`: somebody waits for it.
        """
        ranges = ledger.sealable(sources)
        if ranges:
            self._inbox.put(Seal(ranges, at_once))
        return bool(ranges)

    def check(self) -> None:
        """Raises DependencyError for what this thread can't tell by itself. Called by the poll thread at each turn."""

    def forget(self, sources: Collection[SourcePartition]) -> None:
        """These partitions went elsewhere: drop what was collected of them. From any thread."""
        self._inbox.put(_Forget(sources))

    def refresh(self) -> None:
        """Partitions came: their topic may have been made anew, with the same offsets and another id. From any thread."""
        self._inbox.put(_Refresh())

    def close(self) -> None:
        """End the thread and the producer."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._producer.close()

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self._health.beat("publish")
                try:
                    item = self._inbox.get(timeout=self._patience_s())
                except queue.Empty:
                    pass
                else:
                    self._take(item)
                self._advance()
        except BaseException as error:
            if not isinstance(error, HeadraceError):  # else a sentence, which ends the process and is printed then
                log.exception("the publisher failed")
            self._failed(error)

    def _patience_s(self) -> float:
        """How long nothing new may come before `_advance` has to look again."""
        return REAP_S if self._pending else IDLE_S

    def _take(self, item: Item) -> None:
        match item:
            case Answered():
                for ready in self._order.push(item.prepared.number, item):
                    self._publish(ready)
            case Seal():
                messages = self._outcomes.statistics(item.ranges, self._books.generation)
                self._send(messages, ranges=item.ranges)
            case _Forget():
                self._outcomes.forget(item.sources)
            case _Refresh():
                self._when_reachable(self._outcomes.refresh_limits)

    def _publish(self, batch: Answered) -> None:
        frames = batch.prepared.frames
        with self._books.ledger() as ledger:
            epochs = {source: ledger.epoch(source) for source in {frame.source for frame in frames}}
        current = [frame.epoch == epochs[frame.source] for frame in frames]
        stale = [frame for frame, ok in zip(frames, current, strict=True) if not ok]
        if stale:
            self._books.budget.release(sum(map(weight, stale)))
            self._metrics.frames_discarded(len(stale))
            if len(stale) == len(frames):
                return
        with RANGES.of(Stage.PUBLISH):
            messages, written = self._outcomes.write(batch.prepared, batch.answer, current, self._books.generation)
            self._send(messages, written=written)

    def _send(self, messages: list[Message], written: Written | None = None, ranges: list[Range] | None = None) -> None:
        sent = Sent([], sum(message.size for message in messages), time.monotonic(), written, ranges or [])
        self._books.budget.add(sent.bytes_out)
        self._pending.append(sent)
        try:
            self._announce(sent)
            for message in messages:
                sent.futures.append(self._producer.send(message))
        except (PublishFailed, Fenced) as error:
            self._go_back(error)

    def _announce(self, sent: Sent) -> None:
        """Its records are about to be sent."""

    def _advance(self) -> None:
        """Called at each turn: see what is acknowledged."""
        pending = self._pending
        while pending:
            sent = pending[0]
            for future in sent.futures:
                if not future.is_done:
                    return
                if future.exception is not None:
                    self._go_back(future.exception)
                    return
            pending.popleft()
            self._acknowledged(sent)

    def _acknowledged(self, sent: Sent) -> None:
        self._books.budget.release(sent.bytes_out)
        written = sent.written
        if written is not None:
            with self._books.ledger() as ledger:
                ours = tuple(part for part in written.parts if ledger.epoch(part.source) == part.epoch)
            # What was taken away meanwhile has been forgotten; taken away after this line, a `forget` is behind us.
            counted = replace(written, parts=ours)
            self._outcomes.acknowledged(counted)
            self._outcomes.collect(counted)
            self._books.budget.release(written.weight)
            self._metrics.stage(Stage.PUBLISH, [time.monotonic() - sent.sent_at])
        with self._books.ledger() as ledger:
            for part in written.parts if written is not None else ():
                ledger.complete(part.source, part.epoch, part.offsets)
            for done in sent.ranges:
                ledger.sealed(done)
        if sent.ranges:
            self._metrics.statistics_records(len(sent.futures))

    def _go_back(self, error: BaseException) -> None:
        """Nothing is sent again singly: all that is unacknowledged is processed again from the committed offsets.

        Raises NotAllowed where we may not write: then it is processed again once the worker is let in and started anew.
        """
        if refusal := self._producer.refusal(error):
            raise refusal from error
        sources = {part.source for sent in self._pending if sent.written for part in sent.written.parts}
        sources |= {done.source for sent in self._pending for done in sent.ranges}
        log.error(
            "publishing failed (%s: %s); %d partition(s) go back to their committed offsets",
            type(error).__name__,
            error,
            len(sources),
        )
        self._metrics.publish_failed()
        with self._books.ledger() as ledger:
            ledger.invalidate(sources)
        for sent in self._pending:
            self._books.budget.release(sent.bytes_out + (sent.written.weight if sent.written else 0))
        self._pending.clear()
        self._outcomes.forget(sources)
        self._when_reachable(self._producer.renew, self._outcomes.refresh_limits)

    def _when_reachable(self, *steps: Callable[[], None]) -> None:
        """Take the steps, all again while one finds the broker or a topic away."""
        while not self._ending.is_set():
            try:
                for step in steps:
                    step()
                self._health.met("broker")
                return
            except NotAllowed:
                raise
            except DependencyError as unreachable:
                self._health.unmet("broker", str(unreachable))
                self._health.beat("publish")
                self._ending.wait(RENEW_BACKOFF_S)
