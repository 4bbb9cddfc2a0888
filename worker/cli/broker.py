"""What the commands do at the broker beside the worker: send with a bound on what waits, read topics without a group.

Messages go in through `Sender`, records come out of `Reader`; both map the client's exceptions to the project's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import kafka.errors
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from worker import admission, security, topics
from worker.errors import DependencyError, PublishFailed
from worker.publish.kafka import Producer
from worker.publish.messages import Message
from worker.settings import MIB, Settings
from worker.topics import Cluster

# The client's own buffer has no bound. This much keeps a broker busy over a 100 ms round trip at 300 MB/s.
MAX_WAITING_BYTES = 32 * MIB
# doctor asks for it, --create sets it: a dead letter carries its frame, its headers and why.
DEAD_LETTER_EXTRA_BYTES = 64 * 1024
_POLL_RECORDS = 500
_POLL_S = 0.5
# A broker that gives nothing for so long, though there is more, will not: it has lost the partition's leader, say.
_STALLED_S = 60.0


def existing(settings: Settings, names: Collection[str]) -> Cluster:
    """The cluster with the facts of these topics. Raises DependencyError that names the missing ones."""
    cluster = topics.describe(settings.kafka, names)
    missing = topics.missing_sentence(cluster, names, settings.kafka.bootstrap_servers)
    if missing is not None:
        raise DependencyError(missing)
    return cluster


def create_topics(settings: Settings, partitions: int) -> None:
    """Make those of the four topics that are missing, with size limits that fit each other.

    The statistics topic is small traffic and has as many partitions as the others, because a record's partition
    follows its source's.
    """
    names = settings.topics
    frames_bytes = settings.ingest.max_frame_bytes + DEAD_LETTER_EXTRA_BYTES  # the record around the frame
    limits = {names.frames: frames_bytes, names.dead_letters: frames_bytes + DEAD_LETTER_EXTRA_BYTES}
    every = (names.frames, names.predictions, names.dead_letters, names.statistics)
    topics.create(
        settings.kafka,
        dict.fromkeys(every, partitions),
        {name: {"max.message.bytes": str(limit)} for name, limit in limits.items()},
    )


class Sender:
    """Sends in order and waits when too much is unacknowledged. `acknowledged` is told of each record that arrived."""

    def __init__(self, settings: Settings, max_record_bytes: int, acknowledged: Callable[[], None]) -> None:
        self._producer = Producer(settings.kafka, settings.publish, max_record_bytes)
        self._timeout_s = settings.publish.delivery_timeout_ms / 1000 + 1
        self._acknowledged = acknowledged
        self._waiting: deque[tuple[Any, int]] = deque()
        self._waiting_bytes = 0

    def send(self, message: Message) -> None:
        """Raises PublishFailed if the broker did not take this record or one before it."""
        while self._waiting and (self._waiting_bytes + message.size > MAX_WAITING_BYTES or self._waiting[0][0].is_done):
            self._settle()
        self._waiting.append((self._producer.send(message), message.size))
        self._waiting_bytes += message.size

    def drain(self) -> None:
        """Wait until everything sent is acknowledged. Raises PublishFailed."""
        while self._waiting:
            self._settle()

    def _settle(self) -> None:
        future, size = self._waiting.popleft()
        self._waiting_bytes -= size
        try:
            future.get(timeout=self._timeout_s)
        except kafka.errors.KafkaError as error:
            if refusal := self._producer.refusal(error):
                raise refusal from error
            raise PublishFailed(
                f"the broker did not acknowledge a record ({error}); what came after it may be lost"
            ) from error
        self._acknowledged()

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.close()


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it was read; `headers` by name, of a repeated one the last, without nulls; `all_headers` as they came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    all_headers: tuple[tuple[str, bytes | None], ...]


class Reader:
    """All partitions of some topics, from their beginning or from now on, without a group: it disturbs nobody."""

    def __init__(self, settings: Settings, names: Collection[str], from_beginning: bool) -> None:
        cluster = existing(settings, names)
        partitions = [
            TopicPartition(name, number) for name in names for number in range(cluster.topics[name].partitions)
        ]
        try:
            self._client = KafkaConsumer(
                **security.kafka_arguments(settings.kafka),
                client_id="headrace-reader",
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                auto_offset_reset="earliest",  # after retention took what we were about to read
                isolation_level="read_committed",
                fetch_max_wait_ms=settings.kafka.fetch_max_wait_ms,
                max_poll_records=_POLL_RECORDS,
                metrics_enabled=False,
            )
            self._client.assign(partitions)
            if from_beginning:
                self._client.seek_to_beginning(*partitions)
            else:
                self._client.seek_to_end(*partitions)
                for partition in partitions:  # fixes "now" before the first poll
                    self._client.position(partition)
        except kafka.errors.KafkaError as error:
            raise _unreadable(settings, error) from error
        self._settings = settings

    def poll(self, timeout_s: float) -> Iterator[Record]:
        """What has arrived, at most for `timeout_s` seconds; nothing if nothing has. Raises DependencyError."""
        try:
            polled = self._client.poll(timeout_ms=int(timeout_s * 1000))
        except kafka.errors.KafkaError as error:
            raise _unreadable(self._settings, error) from error
        for partition, records in polled.items():
            for record in records:
                headers = {name: value for name, value in record.headers if value is not None}
                yield Record(
                    partition.topic,
                    partition.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    headers,
                    tuple(record.headers),
                )

    def ends(self) -> dict[TopicPartition, int]:
        """Where each partition ends now, open transactions left out. Raises DependencyError."""
        try:
            found: dict[TopicPartition, int] = self._client.end_offsets(list(self._client.assignment()))
        except kafka.errors.KafkaError as error:
            raise _unreadable(self._settings, error) from error
        return found

    def until(
        self, ends: Mapping[TopicPartition, int], starts: Mapping[TopicPartition, int] | None = None
    ) -> Iterator[list[Record]]:
        """The records of these partitions below their ends, a poll at a time; `starts`: from there, not from where it is.

        Raises DependencyError, also when the broker stops giving any.
        """
        try:
            if starts is not None:
                self._client.assign(list(starts))
                for partition, offset in starts.items():
                    self._client.seek(partition, offset)
            heard = time.monotonic()
            while any(self._client.position(partition) < end for partition, end in ends.items()):
                records = list(self.poll(_POLL_S))
                if records:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _STALLED_S:
                    raise kafka.errors.KafkaTimeoutError(f"nothing came for {_STALLED_S:g} s")
                yield [each for each in records if each.offset < ends[TopicPartition(each.topic, each.partition)]]
        except kafka.errors.KafkaError as error:
            raise _unreadable(self._settings, error) from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


class Bookmark:
    """How far a command has come in a topic, kept by the broker under a group's name. Nobody joins that group."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        try:
            self._client = KafkaConsumer(
                **security.kafka_arguments(settings.kafka),
                client_id="headrace-bookmark",
                group_id=group,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except kafka.errors.KafkaError as error:
            raise _unreadable(settings, error) from error

    def read(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset kept for each partition that has one. Raises DependencyError."""
        try:
            self._client.assign(list(partitions))
            found = {partition: self._client.committed(partition) for partition in partitions}
        except kafka.errors.KafkaError as error:
            raise _unreadable(self._settings, error) from error
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def keep(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Raises DependencyError when the broker does not keep them."""
        if not offsets:
            return
        try:
            self._client.commit({partition: OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()})
        except kafka.errors.KafkaError as error:
            raise DependencyError(f"the broker did not keep how far this came ({error})") from error

    def __enter__(self) -> Bookmark:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _unreadable(settings: Settings, error: Exception) -> DependencyError:
    return admission.denied(error, "Read") or DependencyError(
        f"topics of {settings.kafka.bootstrap_servers} can't be read ({type(error).__name__}: {error}); "
        f"is the broker up, and may this client read?"
    )
