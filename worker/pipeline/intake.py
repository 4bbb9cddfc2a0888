"""The poll thread: frames in, offsets out. It alone calls the consumer.

Each turn: begin new partitions, go back where the publisher asked for it, poll a chunk, hand it to the queue, pause or
resume by the budget, and, once an interval, have complete ranges sealed and sealed ranges committed. Rebalances come in
from the client's I/O thread in between: `handover`.
"""

from __future__ import annotations

import logging
import threading
import time

from worker.errors import DependencyError
from worker.ingest.budget import Shares
from worker.ingest.consumer import Consumer
from worker.ingest.ledger import Range
from worker.ingest.partitions import Chunk, Skipped, Unreadable
from worker.malloc import give_back_holes
from worker.observe.health import Health
from worker.observe.metrics import Metrics
from worker.pipeline.books import Books, weight
from worker.pipeline.core import Core, Failure
from worker.pipeline.handover import Grace, HandOver
from worker.pipeline.publishing import Publishing
from worker.settings import Settings

log = logging.getLogger(__name__)

POLL_S = 0.05  # bounds how late a commit, a pause or a stop is noticed
DRAIN_POLL_S = 0.01  # and while statistics are on their way, so that their commit follows at once
SEAL_SHARE = 0.6  # of the commit interval; its rest is for the statistics' and the commit's way to the broker and back
BEGIN_RETRY_S = 0.25
COMMIT_RETRY_S = 0.25  # after a refused commit: a rebalance takes about as long
LAST_COMMIT_S = 1.0  # takes milliseconds, or the broker is away
LAG_INTERVAL_S = 1.0
TRIM_INTERVAL_S = 1.0
TRIM_ALL_INTERVAL_S = 15.0  # so that what an outage piled up does not stay; 20 ms of CPU, with what is taken again
LAG_INTERVAL_PAUSED_S = 5.0  # asks the broker, one request a time


class Intake:
    """Runs the loop until `stop` is set and everything is drained."""

    def __init__(
        self,
        settings: Settings,
        core: Core,
        books: Books,
        handover: HandOver,
        publishing: Publishing,
        metrics: Metrics,
        health: Health,
        grace: Grace,
    ) -> None:
        self._settings = settings
        self._core = core
        self._queue = core.queue
        self._handover = handover
        self._books = books
        self._publishing = publishing
        self._metrics = metrics
        self._health = health
        self._grace = grace
        self._paused = False
        self._sealing = False
        self._commit_under_way = False
        self._next_retry = 0.0
        self._next_seal = 0.0
        self._next_commit = 0.0
        self._next_lag = 0.0
        self._next_trim = 0.0
        self._next_trim_all = 0.0
        self._hole_bytes = Shares.of(settings.ingest.max_in_flight_bytes).hole_bytes

    def run(self, consumer: Consumer, stop: threading.Event, failure: Failure) -> None:
        """Poll until `stop`; then drain within the grace, commit, and return. Raises what `failure` holds."""
        joined = False
        try:
            while not stop.is_set():
                self._turn(consumer, failure)
                if not joined and self._books.generation >= 0:
                    joined = True
                    self._health.met("pipeline")
            self._drain(consumer, failure)
        finally:
            # What is not done now never will be: leaving the group must not wait for it as for a partition handed over.
            with self._books.ledger() as ledger:
                ledger.revoke(ledger.sources)

    def _turn(self, consumer: Consumer, failure: Failure, draining: bool = False) -> None:
        failure.check()
        self._publishing.check()
        self._health.beat("poll")
        if not draining:
            self._begin_new(consumer)
        self._go_back(consumer)
        wait_s = DRAIN_POLL_S if draining or self._sealing else POLL_S
        chunks, skipped, unreadable = consumer.poll(self._settings.ingest.poll_chunk_frames, wait_s)
        self._books.generation = consumer.generation
        for chunk in chunks:
            if not draining:
                self._admit(chunk)
        self._report(skipped, unreadable)
        self._balance(consumer, draining)
        now = time.monotonic()
        if now >= self._next_seal:
            self._next_seal = now + self._settings.delivery.commit_interval_ms / 1000 * SEAL_SHARE
            self._seal(consumer)
        self._commit(consumer, now)
        if now >= self._next_lag:
            self._next_lag = now + (LAG_INTERVAL_PAUSED_S if self._paused else LAG_INTERVAL_S)
            self._metrics.lag(consumer.lags(fresh=self._paused))
        if now >= self._next_trim:
            self._next_trim = now + TRIM_INTERVAL_S
            all_of_them = now >= self._next_trim_all
            give_back_holes(0 if all_of_them else self._hole_bytes)
            if all_of_them:
                self._next_trim_all = now + TRIM_ALL_INTERVAL_S
            self._core.observe()

    def _begin_new(self, consumer: Consumer) -> None:
        for source, beginning in self._handover.new():
            if source not in consumer.assignment:
                continue  # about to be given, or being taken away
            asked_at = time.monotonic()
            if beginning.tried_at and asked_at < self._next_retry:
                return
            begun = consumer.begin(source)
            if begun is None:
                # A partition without a leader holds the poll up for seconds: between later tries the others get as long.
                beginning.tried_at = now = time.monotonic()
                self._next_retry = now + max(BEGIN_RETRY_S, now - asked_at)
                return
            start, skipped = begun
            if not self._handover.begun(source, beginning, start):
                continue
            self._report([skipped] if skipped else [], [])
            if self._paused:
                consumer.pause([source])
            else:
                consumer.resume([source])

    def _go_back(self, consumer: Consumer) -> None:
        with self._books.ledger() as ledger:
            rewinds = ledger.rewinds()
        if not rewinds:
            return
        self._handover.drop_waiting(rewinds, handed_over=False)
        if self._settings.delivery.mode == "exactly_once":
            # The failed transaction may count all the same, and only the broker knows: begin where it says.
            consumer.pause(rewinds)
            self._handover.begin_again(rewinds)
            return
        for source, offset in rewinds.items():
            consumer.seek(source, offset)
            if not self._paused:
                consumer.resume([source])  # refused for one that stands at an unreadable record
        with self._books.ledger() as ledger:
            for source in rewinds:
                ledger.rewound(source)

    def _admit(self, chunk: Chunk) -> None:
        epoch = chunk.frames[0].epoch
        with self._books.ledger() as ledger:
            if not ledger.admit(chunk.source, epoch, [frame.offset for frame in chunk.frames], chunk.position):
                return  # the partition goes back or goes away: these are read again, here or elsewhere
            self._books.budget.add(sum(map(weight, chunk.frames)))
            self._queue.offer(chunk.frames)
        self._metrics.frames_received(len(chunk.frames))

    def _balance(self, consumer: Consumer, draining: bool) -> None:
        budget = self._books.budget
        if not self._paused and (draining or budget.exhausted):
            self._paused = True
            consumer.pause(consumer.assignment)
        elif self._paused and not draining and budget.relieved:
            self._paused = False
            consumer.resume(consumer.assignment)
        with self._books.ledger() as ledger:
            outstanding = ledger.outstanding()
        assigned = len(consumer.assignment)
        self._metrics.in_flight(outstanding, budget.used)
        self._metrics.partitions(assigned, assigned if self._paused else 0, len(self._handover.unreadable))

    def _seal(self, consumer: Consumer) -> None:
        with self._books.ledger() as ledger:
            idle = [source for source in ledger.sources if ledger.outstanding([source]) == 0]
        positions = {source: consumer.position(source) for source in idle}
        with self._books.ledger() as ledger:
            for source, position in positions.items():
                # Only if still idle: a position is no news while frames below it are under way.
                if position is not None and ledger.outstanding([source]) == 0:
                    ledger.observe(source, position)
            self._sealing |= self._publishing.seal(ledger, at_once=False)

    def _commit(self, consumer: Consumer, now: float) -> None:
        """At once when something is sealed: waiting for the next interval would double what a killed worker repeats."""
        if self._commit_under_way or now < self._next_commit:
            return
        with self._books.ledger() as ledger:
            commits = ledger.commits()
        if commits:
            self._commit_under_way, self._sealing = True, False
            consumer.commit({done.source: done.end for done in commits}, lambda error: self._committed(commits, error))

    def _committed(self, commits: list[Range], error: Exception | None) -> None:
        self._commit_under_way = False
        if error is not None:
            self._metrics.commit_failed()
            self._next_commit = time.monotonic() + COMMIT_RETRY_S
            log.warning("commit failed, the next one repeats it: %s", error)
            return
        self._metrics.committed()
        with self._books.ledger() as ledger:
            for done in commits:
                ledger.committed(done)

    def _drain(self, consumer: Consumer, failure: Failure) -> None:
        self._grace.over()  # its time runs from here on
        self._health.unmet("pipeline", "draining")
        # Closed before the next poll: a frame it returned would be dropped, and the position must not step over it. What
        # waits for a decode thread goes to the next owner, or the drain would take as long as the whole budget's frames.
        self._paused = True
        consumer.pause(consumer.assignment)
        with self._books.ledger() as ledger:
            mine = ledger.sources
        self._handover.drop_waiting(mine, handed_over=True)
        self._queue.flush()
        log.info("draining: no new frames, at most %.0f s for those under way", self._grace.seconds)
        while True:
            self._turn(consumer, failure, draining=True)
            with self._books.ledger() as ledger:
                # Committed, too: in the middle of a rebalance no commit is taken until the polls above have ended it.
                done = not self._publishing.seal(ledger) and ledger.settled() and not ledger.commits()
            if done and not self._commit_under_way:
                return
            if self._grace.over():
                with self._books.ledger() as ledger:
                    left = ledger.outstanding()
                log.warning(
                    "the grace is over with %d frames under way; they stay uncommitted and are processed again", left
                )
                break
        with self._books.ledger() as ledger:
            commits = ledger.commits()
        if commits:
            try:
                consumer.commit_now({done.source: done.end for done in commits}, timeout_s=LAST_COMMIT_S)
                self._committed(commits, None)
            except DependencyError as error:
                log.warning("%s", error)

    def _report(self, skipped: list[Skipped], unreadable: list[Unreadable]) -> None:
        for gap in skipped:
            lost = gap.end - gap.start
            self._metrics.frames_skipped(lost)
            log.error(
                "%s/%d: offsets %d to %d were gone before they were read: %d lost, going on at %d",
                *gap.source,
                gap.start,
                gap.end,
                lost,
                gap.resume_at,
            )
            with self._books.ledger() as ledger:
                made_anew = gap.resume_at < gap.start and gap.source in ledger.sources
                if made_anew:
                    ledger.assign(gap.source, gap.resume_at)
            if made_anew:  # what is left of the old topic goes, and its id, before the first frame of the new one comes
                self._handover.drop_waiting([gap.source], handed_over=False)
                self._publishing.forget([gap.source])
                self._publishing.refresh()
        for stopped in unreadable:
            self._handover.unreadable.add(stopped.source)
            log.error(
                "%s/%d stopped: the record at offset %d can't be read (%s); the other partitions go on",
                *stopped.source,
                stopped.offset,
                stopped.detail,
            )
