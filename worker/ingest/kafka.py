"""The consumer: kafka-python behind the few calls the pipeline needs, its exceptions mapped, its surprises guarded.

Every call is made from the poll thread; rebalance callbacks arrive on the client's I/O thread while a poll is under way.
The reset policy is ours: no committed offset means the earliest record; an offset out of range is counted and named.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import kafka.errors
from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from worker import admission, security
from worker.errors import ConfigurationError, DependencyError
from worker.frames import Frame, SourcePartition
from worker.ingest.kafka_mended import forget_records, mend, take_held_error
from worker.ingest.listener import Listener, offsets_of, partition_of, source_of
from worker.ingest.partitions import Chunk, Rebalance, Skipped, Unreadable, start_offset
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

# For each question about a new partition. The poll thread asks, so that three stay far below max_poll_interval_ms.
BEGIN_TIMEOUT_MS = 5_000
# A broker that is away is not told; its session timeout tells it. A worker that leaves has a grace to keep to.
LEAVE_GROUP_MS = 2_000
# What the client raises for a partition that the I/O thread's rebalance took away just before the call.
TAKEN_AWAY = (KeyError, ValueError, kafka.errors.IllegalStateError)


class Consumer:
    """The group member.

    `clock` is monotonic seconds. Raises DependencyError where the broker can't be reached.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        rebalance: Rebalance,
        fetch_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._epoch = rebalance.epoch
        self._topic = topic
        self._settings = settings
        self._stopped: dict[SourcePartition, Unreadable] = {}
        self._commit_denied: Exception | None = None
        self._truncated: Exception | None = None
        assignor = CooperativeStickyAssignor()
        try:
            self.client = KafkaConsumer(
                **security.kafka_arguments(settings),
                client_id="headrace",
                group_id=settings.group_id,
                group_instance_id=settings.group_instance_id or None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                allow_auto_create_topics=False,
                partition_assignment_strategy=[assignor],
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=min(3000, settings.session_timeout_ms // 3),
                max_poll_interval_ms=settings.max_poll_interval_ms,
                request_timeout_ms=settings.request_timeout_ms,
                metadata_max_age_ms=settings.metadata_max_age_ms,
                bootstrap_timeout_ms=settings.request_timeout_ms,
                fetch_max_wait_ms=settings.fetch_max_wait_ms,
                fetch_max_bytes=fetch_bytes,
                max_partition_fetch_bytes=fetch_bytes,
                reconnect_backoff_max_ms=1000,  # a restarted broker is found again within a second
                metrics_enabled=False,
            )
        except kafka.errors.KafkaConfigurationError as error:
            raise ConfigurationError(f"the Kafka client refuses its settings: {error}") from error
        except kafka.errors.KafkaError as error:
            raise admission.unreachable(settings, error) from error
        # Asked before the group is joined: a leader that does not know the topic's partitions yet assigns none.
        self.client.partitions_for_topic(topic)
        self._of_a_record = mend(self.client)
        listener = Listener(self.client, assignor, rebalance, drain_bound_s=settings.max_poll_interval_ms / 2000)
        self.client.subscribe([topic], listener=listener)

    @property
    def generation(self) -> int:
        """The group's generation as this member knows it; -1 outside the group."""
        return int(self.membership().generation_id)

    def membership(self) -> Any:
        """The group metadata as a transaction's offsets carry it: who we are, in which generation. From any thread."""
        return self.client.group_metadata()

    @property
    def assignment(self) -> frozenset[SourcePartition]:
        """Partitions this member owns now."""
        return frozenset(source_of(tp) for tp in self.client.assignment())

    def begin(self, source: SourcePartition) -> tuple[int, Skipped | None] | None:
        """Fix where a new partition starts, and let it flow. Returns the offset and what of it was skipped.

        None: the broker does not answer now, or the partition was taken away meanwhile; ask again while it is assigned.
        """
        tp = partition_of(source)
        # The client keeps the answer of a look-up that nobody waited for any more, and gives it to the next one, however late.
        self.client._coordinator._offset_fetch_futures.pop(frozenset((tp,)), None)
        try:
            committed = self.client.committed(tp, timeout_ms=BEGIN_TIMEOUT_MS)
            first = int(self.client.beginning_offsets([tp], timeout_ms=BEGIN_TIMEOUT_MS)[tp])
            end = int(self.client.end_offsets([tp], timeout_ms=BEGIN_TIMEOUT_MS)[tp])
            start, skipped = start_offset(source, committed, first, end)
            forget_records(self.client, tp)
            self.client.seek(tp, start)
        except kafka.errors.AuthorizationError as error:
            raise self._not_allowed(error) from error
        except (*TAKEN_AWAY, kafka.errors.KafkaError) as error:
            log.warning("%s/%d does not start yet: %s", *source, error)
            return None
        self._stopped.pop(source, None)  # of an assignment before: whoever owned it since may have got past it
        return start, skipped

    def poll(self, max_frames: int, timeout_s: float) -> tuple[list[Chunk], list[Skipped], list[Unreadable]]:
        """Frames that arrived, offsets found to be gone, partitions found to be unreadable.

        Raises DependencyError for what no retry of this client can mend.
        """
        if self._commit_denied is not None:
            raise self._not_allowed(self._commit_denied) from self._commit_denied
        if self._truncated is not None:
            return [], *self._sort_out(self._truncated, of_a_record=False)
        self._pick_up_join()
        try:
            polled = self.client.poll(timeout_ms=int(timeout_s * 1000), max_records=max_frames)
        except Exception as error:
            return [], *self._sort_out(error, self._of_a_record(error))
        now = self._clock()
        chunks = [self._chunk(tp, records, now) for tp, records in polled.items() if records]
        held = take_held_error(self.client)
        return chunks, *(self._sort_out(held, of_a_record=True) if held is not None else ([], []))

    def _sort_out(self, error: Exception, of_a_record: bool) -> tuple[list[Skipped], list[Unreadable]]:
        """What an error met in a poll says of the partitions. Raises what is no record's fault and no retry can mend."""
        match error:
            case KeyError() if of_a_record:
                return [], []  # a partition was taken away while its fetch was read; nothing of it had been handed out
            case kafka.errors.OffsetOutOfRangeError():
                return self._out_of_range(error), []
            case (
                kafka.errors.CorruptRecordError()
                | kafka.errors.UnsupportedCodecError()
                | kafka.errors.KafkaProtocolError()
            ) if of_a_record:
                return [], self._unreadable(error)
            case kafka.errors.AuthorizationError():
                raise self._not_allowed(error) from error
            case kafka.errors.KafkaError():
                if getattr(error, "retriable", False):
                    log.warning("poll failed, trying again: %s", error)
                    return [], []
                refusal = admission.refused(self._settings, error)
                raise refusal or DependencyError(f"the consumer of {self._topic} can't go on: {error}") from error
            case _ if of_a_record:  # a codec's own, or of a header's key that is no UTF-8
                return [], self._unreadable(error)
            case _:
                raise error

    def _not_allowed(self, error: Exception) -> DependencyError:
        return admission.denied(error, "Read", self._settings.group_id) or DependencyError(str(error))

    def _pick_up_join(self) -> None:
        """A join that outlasted the poll which began it is forgotten by kafka-python 3.0.12 if metadata caused it.

        The member then sits in the group without partitions or heartbeats: seen in 7 of 22 starts with polls of 20 ms.
        Asking for a rejoin makes the poll wait for the join under way; it starts no second one. One that lost its
        connection half-way is given up where metadata caused it, with heartbeats off: it is begun again.
        """
        coordinator = self.client._coordinator
        if coordinator._join_task is not None or coordinator.rejoining:
            coordinator.request_rejoin()

    def _chunk(self, tp: TopicPartition, records: list[Any], now: float) -> Chunk:
        source = source_of(tp)
        epoch = self._epoch(source)
        frames = tuple(
            Frame(source, r.offset, r.value, r.key, tuple(r.headers), r.timestamp, epoch, now) for r in records
        )
        return Chunk(source, frames, frames[-1].offset + 1)

    def _out_of_range(self, error: Exception) -> list[Skipped]:
        skipped = []
        for tp, offset in dict(error.args[0]).items():
            try:
                first = int(self.client.beginning_offsets([tp], timeout_ms=BEGIN_TIMEOUT_MS)[tp])
                self.client.seek(tp, first)
            except (*TAKEN_AWAY, kafka.errors.KafkaError) as trouble:
                log.warning(
                    "%s/%d: offset %d is out of range, and the log's start is not known yet: %s", *tp, offset, trouble
                )
                continue  # the next fetch says so again
            skipped.append(Skipped(source_of(tp), int(offset), max(first, int(offset)), first))
        return skipped

    def _unreadable(self, error: Exception) -> list[Unreadable]:
        """Stop the partition whose record the client choked on; the client names it only inside."""
        part = getattr(self.client._fetcher, "_next_partition_records", None)
        if not part:  # none, or the drained rest of another partition: the error came with the fetch, not from a record
            if not isinstance(error, kafka.errors.KafkaError):
                raise error
            raise DependencyError(
                f"a record of {self._topic} can't be read, and the client doesn't say where: {error}"
            ) from error
        stopped = Unreadable(source_of(part.topic_partition), int(part.next_fetch_offset), str(error))
        self._stopped[stopped.source] = stopped
        self.pause([stopped.source])
        return [stopped]

    def pause(self, sources: Iterable[SourcePartition]) -> None:
        """Stop fetching; polling goes on."""
        for source in sources:
            with contextlib.suppress(*TAKEN_AWAY):
                self.client.pause(partition_of(source))

    def resume(self, sources: Iterable[SourcePartition]) -> None:
        """Fetch again, but for partitions stopped at an unreadable record."""
        for source in sources:
            if source not in self._stopped:
                with contextlib.suppress(*TAKEN_AWAY):
                    self.client.resume(partition_of(source))

    def seek(self, source: SourcePartition, offset: int) -> None:
        """The next frame of this partition is the one at `offset`."""
        stopped = self._stopped.get(source)
        if stopped is not None and offset < stopped.offset:
            del self._stopped[source]  # what lies before the unreadable record is read again; then it stops again
        with contextlib.suppress(*TAKEN_AWAY):
            self.client.seek(partition_of(source), offset)

    def position(self, source: SourcePartition) -> int | None:
        """Offset of the next fetch; it moves over markers and compacted records too."""
        try:
            position = self.client.position(partition_of(source), timeout_ms=0)
        except kafka.errors.LogTruncationError as error:
            self._truncated = (
                error  # told once: the next poll ends us, and whoever starts after us begins where it is committed
            )
            return None
        except (*TAKEN_AWAY, kafka.errors.KafkaError):
            return None  # new and about to begin, taken away, or not known now: the next poll says what is wrong
        return None if position is None else int(position)

    def commit(self, offsets: dict[SourcePartition, int], done: Callable[[Exception | None], None]) -> None:
        """Send a commit; `done` hears its end from a later poll, with the error if it failed."""

        def told(_: Any, result: Any) -> None:
            if isinstance(result, kafka.errors.AuthorizationError):
                self._commit_denied = result  # for the next poll: what is raised here only reaches the client's log
            done(result if isinstance(result, Exception) else None)

        self.client.commit_async(offsets_of(offsets), callback=told)

    def commit_now(self, offsets: dict[SourcePartition, int], timeout_s: float) -> None:
        """Commit and wait. Raises DependencyError."""
        try:
            self.client.commit(offsets_of(offsets), timeout_ms=int(timeout_s * 1000))
        except kafka.errors.KafkaError as error:
            raise DependencyError(f"the last commit failed; these frames will be processed again: {error}") from error

    def lags(self, fresh: bool) -> dict[SourcePartition, int]:
        """Records between position and end. `fresh` asks the broker (while paused no fetch brings the news)."""
        tps = list(self.client.assignment())
        ends: dict[TopicPartition, int | None]
        try:
            ends = (
                self.client.end_offsets(tps, timeout_ms=1000)
                if fresh and tps
                else {tp: self.client.highwater(tp) for tp in tps}
            )
        except (KeyError, kafka.errors.KafkaError):
            return {}  # the broker is away; the last value stands
        lags = {}
        for tp, end in ends.items():
            position = self.position(source_of(tp))
            if end is not None and position is not None:
                lags[source_of(tp)] = max(0, int(end) - position)
        return lags

    def close(self) -> None:
        """Leave the group; nothing is committed here."""
        self.client.close(autocommit=False, timeout_ms=LEAVE_GROUP_MS)
