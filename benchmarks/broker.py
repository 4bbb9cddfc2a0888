"""What the harness asks of the broker: topics, frames put on them beforehand, and when each prediction was appended.

Predictions topics are made with `message.timestamp.type=LogAppendTime`, so that every side is timed by the broker's
clock and none by its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

PARTITIONS = 4  # enough for two consumers to share evenly
MAX_RECORD_BYTES = 16 * 2**20
_FLUSH_BYTES = 32 * 2**20  # the client's buffer has no bound
_BATCH_BYTES = 256 * 1024  # of small records: a million in batches of the default 16 KB takes a minute
_READ_TIMEOUT_MS = 10_000


class Appended(NamedTuple):
    """A record as the broker keeps it; `at` is its append time in seconds since the epoch, whole milliseconds."""

    at: float
    key: bytes | None
    value: bytes


class Broker:
    """One connection of the harness's own; closed with the `with` block of `rig`."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._servers = bootstrap_servers.split(",")
        self._admin = KafkaAdminClient(bootstrap_servers=self._servers)
        self._watcher = KafkaConsumer(bootstrap_servers=self._servers)
        self._partitions: dict[str, int] = {}

    def create(self, topic: str, partitions: int = PARTITIONS) -> None:
        """A topic, each of whose partitions has a leader when this returns."""
        configs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(MAX_RECORD_BYTES)}
        self._admin.create_topics({topic: {"num_partitions": partitions, "configs": configs}}, wait_for_metadata=True)
        self._partitions[topic] = partitions

    def delete(self, topics: Iterable[str]) -> None:
        self._admin.delete_topics(list(topics))

    def fill(self, topic: str, frames: Iterable[bytes]) -> None:
        """Spread the frames evenly over the partitions, one camera each."""
        producer = KafkaProducer(
            bootstrap_servers=self._servers, max_request_size=MAX_RECORD_BYTES, linger_ms=5, batch_size=_BATCH_BYTES
        )
        partitions, unsent = self._partitions[topic], 0
        for number, frame in enumerate(frames):
            partition = number % partitions
            producer.send(topic, frame, key=b"cam-%d" % partition, partition=partition)
            unsent += len(frame)
            if unsent > _FLUSH_BYTES:
                producer.flush()
                unsent = 0
        producer.flush()
        producer.close()

    def count(self, topic: str) -> int:
        """Records on the topic. No side uses transactions, so offsets count records."""
        return sum(self._watcher.end_offsets(self._of(topic)).values())

    def appended(self, topic: str) -> list[Appended]:
        """All records of the topic, in order within each partition."""
        partitions = self._of(topic)
        expected = self.count(topic)
        reader = KafkaConsumer(
            bootstrap_servers=self._servers, auto_offset_reset="earliest", consumer_timeout_ms=_READ_TIMEOUT_MS
        )
        reader.assign(partitions)
        records: list[Appended] = []
        while len(records) < expected:
            polled: dict[Any, list[Any]] = reader.poll(timeout_ms=_READ_TIMEOUT_MS)
            if not polled:
                raise TimeoutError(f"{len(records)} of {expected} records of {topic} could be read back")
            records += [Appended(r.timestamp / 1000, r.key, r.value) for chunk in polled.values() for r in chunk]
        reader.close()
        return records

    def close(self) -> None:
        self._watcher.close()
        self._admin.close()

    def _of(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self._partitions[topic])]
