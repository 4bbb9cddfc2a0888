"""The consumer on librdkafka (extra `fast`): the calls of `worker.ingest.consumer`, its errors mapped, its surprises guarded.

Every call but `membership` is made from the poll thread. Records and errors come out of one poll in the order of each
partition, and rebalances are called back inside it: `worker.ingest.confluent_assignment` knows what is ours.
"""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker import admission, librdkafka
from worker.errors import DependencyError
from worker.frames import Frame, SourcePartition
from worker.ingest.confluent_assignment import Assignment, commit, partitions_of
from worker.ingest.confluent_client import Membership, make_client, read_membership
from worker.ingest.partitions import Chunk, Rebalance, Skipped, Unreadable, start_offset
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

# As for the other client: three questions about a new partition stay far below max_poll_interval_ms.
BEGIN_TIMEOUT_S = 5.0
LAG_TIMEOUT_S = 1.0  # for all partitions together
LEAVE_GROUP_S = 2.0  # a worker that leaves has a grace to keep to
_UNREADABLE = {
    KafkaError._BAD_MSG,
    KafkaError._BAD_COMPRESSION,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
}
_PASSING = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._MAX_POLL_EXCEEDED,  # the loss that follows is told by the callback
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
}

# Where a header's key is no UTF-8 the client hands out a half-made list and leaves the error behind. A called method may slip
# past Python's check for that, and the list would end the process; a called object never does: SystemError.
_headers = operator.methodcaller("headers")


class Consumer:
    """See `worker.ingest.consumer`. `clock` is monotonic seconds. Raises DependencyError where the broker can't be reached."""

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        rebalance: Rebalance,
        fetch_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._epoch = rebalance.epoch
        self._clock = clock
        self._done: Callable[[Exception | None], None] | None = None  # of the commit under way
        self._end: DependencyError | None = None  # heard in a callback, for the next poll to raise
        self._client = make_client(settings, fetch_bytes, self._hear, self._committed)
        self._ours = ours = Assignment(self._client, rebalance, settings.max_poll_interval_ms / 2000)
        try:
            self._client.list_topics(topic, timeout=settings.request_timeout_ms / 1000)
            self._client.subscribe([topic], on_assign=ours.on_assigned, on_revoke=ours.on_revoked, on_lost=ours.on_lost)
        except KafkaException as error:
            raise admission.unreachable(settings, librdkafka.kafka_error(error.args[0])) from error

    @property
    def generation(self) -> int:
        """See `worker.ingest.consumer`, as for all below."""
        return self.membership().generation_id

    def membership(self) -> Membership:
        try:
            return read_membership(self._client.consumer_group_metadata())
        except RuntimeError:  # closed: the worker leaves, and the last transaction asks
            return Membership(-1, "", b"")

    @property
    def assignment(self) -> frozenset[SourcePartition]:
        return frozenset(self._ours.owned)

    def begin(self, source: SourcePartition) -> tuple[int, Skipped | None] | None:
        try:
            committed = self._committed_offset(source)
            first, end = self._bounds(source)
            start, skipped = start_offset(source, committed, first, end)
            self._ours.place(source, start)
        except KafkaException as error:
            self._raise_if_denied(error.args[0])
            log.warning("%s/%d does not start yet: %s", *source, error.args[0].str())
            return None
        self._ours.stopped.pop(source, None)  # read up to the unreadable record again; then it stops again
        return start, skipped

    def poll(self, max_frames: int, timeout_s: float) -> tuple[list[Chunk], list[Skipped], list[Unreadable]]:
        if self._end is not None:
            raise self._end
        messages = self._messages(max_frames, timeout_s)
        now = self._clock()
        ours = self._ours
        frames: dict[SourcePartition, list[Frame]] = {}
        epochs: dict[SourcePartition, int] = {}
        skipped: list[Skipped] = []
        unreadable: list[Unreadable] = []
        for message in messages:
            source = SourcePartition(message.topic(), message.partition())
            offset = message.offset()
            if (error := message.error()) is not None:
                self._sort_out(error, source, offset, skipped, unreadable)
                continue
            if not ours.gives_out(source, offset):
                continue
            try:
                headers = tuple(_headers(message) or ())
            except SystemError as failure:
                unreadable.append(ours.stop(source, offset, str(failure.__cause__ or failure)))
                continue
            if source not in frames:
                frames[source], epochs[source] = [], self._epoch(source)
            timestamp_ms = message.timestamp()[1]
            frames[source].append(
                Frame(source, offset, message.value(), message.key(), headers, timestamp_ms, epochs[source], now)
            )
            ours.positions[source] = offset + 1
        chunks = [Chunk(source, tuple(run), run[-1].offset + 1) for source, run in frames.items()]
        return chunks, skipped, unreadable

    def pause(self, sources: Iterable[SourcePartition]) -> None:
        self._ours.pause(sources)

    def resume(self, sources: Iterable[SourcePartition]) -> None:
        self._ours.resume(sources)

    def seek(self, source: SourcePartition, offset: int) -> None:
        ours = self._ours
        if source not in ours.positions:
            return  # taken away meanwhile
        stopped = ours.stopped.get(source)
        if stopped is not None and offset < stopped.offset:
            del ours.stopped[source]  # what lies before the unreadable record is read again; then it stops again
        try:
            ours.place(source, offset)
        except KafkaException as error:
            raise DependencyError(f"{source.topic}/{source.partition} can't go back: {error.args[0].str()}") from error

    def position(self, source: SourcePartition) -> int | None:
        return self._ours.positions.get(source)

    def commit(self, offsets: dict[SourcePartition, int], done: Callable[[Exception | None], None]) -> None:
        self._done = done
        try:
            self._client.commit(offsets=partitions_of(offsets), asynchronous=True)
        except KafkaException as error:
            self._committed(error.args[0], [])

    def commit_now(self, offsets: dict[SourcePartition, int], timeout_s: float) -> None:
        # The client's own waiting has no limit that could be set.
        failed: list[KafkaError] = []
        committing = threading.Thread(
            target=lambda: failed.extend(commit(self._client, offsets)), name="headrace-last-commit", daemon=True
        )
        committing.start()
        committing.join(timeout_s)
        if failed or committing.is_alive():
            why = failed[0].str() if failed else f"no answer within {timeout_s:g} s"
            raise DependencyError(f"the last commit failed; these frames will be processed again: {why}")

    def lags(self, fresh: bool) -> dict[SourcePartition, int]:
        lags = {}
        give_up = time.monotonic() + LAG_TIMEOUT_S
        for source, position in self._ours.positions.items():
            left_s = max(0.0, give_up - time.monotonic())
            try:
                bounds = self._client.get_watermark_offsets(TopicPartition(*source), timeout=left_s, cached=not fresh)
            except KafkaException:
                break  # the broker is away; the last values stand
            if bounds is not None and bounds[1] >= 0:
                lags[source] = max(0, bounds[1] - position)
        return lags

    def close(self) -> None:
        # Leaving asks the broker; where it does not answer, its session timeout tells it.
        leaving = threading.Thread(target=self._client.close, name="headrace-leave", daemon=True)
        leaving.start()
        leaving.join(LEAVE_GROUP_S)

    def _messages(self, most: int, timeout_s: float) -> list[Any]:
        """Raises DependencyError where the client is at its end: another has its identity, say."""
        try:
            # One, then what is there besides: asked for many the client would wait until it has them all.
            first = self._client.poll(timeout_s)
            return [] if first is None else [first, *(self._client.consume(most - 1, 0) if most > 1 else ())]
        except KafkaException as error:
            self._raise_if_denied(error.args[0])
            raise DependencyError(f"the consumer of {self._topic} can't go on: {error.args[0].str()}") from error

    def _committed_offset(self, source: SourcePartition) -> int | None:
        """Raises KafkaException."""
        (answer,) = self._client.committed([TopicPartition(*source)], timeout=BEGIN_TIMEOUT_S)
        if answer.error is not None:
            raise KafkaException(answer.error)
        return int(answer.offset) if answer.offset >= 0 else None

    def _bounds(self, source: SourcePartition) -> tuple[int, int]:
        """Offsets of the log's start and end. Raises KafkaException."""
        bounds = self._client.get_watermark_offsets(TopicPartition(*source), timeout=BEGIN_TIMEOUT_S)
        if bounds is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        first, end = bounds
        return int(first), int(end)

    def _sort_out(
        self,
        error: KafkaError,
        source: SourcePartition,
        offset: int,
        skipped: list[Skipped],
        unreadable: list[Unreadable],
    ) -> None:
        """What an error among the records says. Raises what is no record's fault and no retry can mend."""
        code = error.code()
        position = self._ours.positions.get(source)
        if code == KafkaError._PARTITION_EOF:
            self._ours.moved(source, offset)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            if position is not None and (gap := self._out_of_range(source, position)) is not None:
                skipped.append(gap)
        elif code in _UNREADABLE:
            if position is not None and source not in self._ours.stopped:
                unreadable.append(self._ours.stop(source, max(position, offset), error.str()))
        else:
            self._raise_if_denied(error)
            if code not in _PASSING and not getattr(librdkafka.kafka_error(error), "retriable", False):
                raise DependencyError(f"the consumer of {self._topic} can't go on: {error.str()}")
            log.warning("poll failed, trying again: %s", error.str())

    def _out_of_range(self, source: SourcePartition, position: int) -> Skipped | None:
        """Go on at the log's start; or where it stood, if that is there after all."""
        try:
            first, end = self._bounds(source)
            resume_at = position if first <= position <= end else first
            self._ours.place(source, resume_at)
        except KafkaException as error:
            raise DependencyError(
                f"{source.topic}/{source.partition}: offset {position} is out of range, and the broker does not say where "
                f"the log starts: {error.args[0].str()}"
            ) from error
        return None if resume_at == position else Skipped(source, position, max(first, position), first)

    def _raise_if_denied(self, error: KafkaError) -> None:
        mapped = librdkafka.kafka_error(error, self._topic)
        if denied := admission.denied(mapped, "Read", self._settings.group_id):
            raise denied from mapped

    def _hear(self, error: KafkaError) -> None:
        """What the client tells of itself, inside a poll."""
        if refusal := admission.refused(self._settings, librdkafka.kafka_error(error)):
            self._end = refusal
        else:
            log.warning("the Kafka client: %s", error.str())

    def _committed(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """How a commit that was not waited for ended: once for each, inside a poll."""
        done, self._done = self._done, None
        if done is None:
            return
        failed = error or next((each.error for each in partitions if each.error is not None), None)
        mapped = None if failed is None else librdkafka.kafka_error(failed, self._topic)
        self._end = self._end or admission.denied(mapped, "Read", self._settings.group_id)
        done(mapped)
