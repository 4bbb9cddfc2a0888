"""Sends frames and audits what became of them, from outside the worker and with another client than the worker's.

`produce_frames` returns what the broker acknowledged; `audit` reads the output topics from their beginning to their
end and compares. The client is librdkafka's: a fault of kafka-python can't hide itself.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.rig.outcomes import Audit, Outcome, SentFrame, StatisticsAudit, StatisticsRange, compare, compare_statistics
from tests.rig.topics import Topics
from worker.errors import DependencyError

_MAX_RECORD_BYTES = 2**25  # above whatever the broker allows: its limits are what a test is about
_QUEUE_KIB = 64 * 1024
_ANSWER_S = 60.0
_SILENCE_S = 10.0  # then another client asks: librdkafka's has stood still after its broker was fenced and came back
_POLL_S = 0.1
_PAUSE_S = 0.1  # between two looks at topics that wait for outcomes
_RECORDS_A_POLL = 1000

Headers = Sequence[tuple[str, bytes | None]]
Place = tuple[str, int]  # topic and partition
FrameToSend = tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, Headers]


def produce_frames(
    bootstrap_servers: str,
    topic: str,
    frames: Iterable[FrameToSend],
    partition_of: Callable[[int], int] | None = None,
    settings: Mapping[str, str | int] | None = None,
) -> list[SentFrame]:
    """Send (key, value) or (key, value, headers), idempotently and in order; wait for all acknowledgements.

    `partition_of` maps a frame's number to its partition; without it the key decides as Kafka's own clients do.
    `settings` are librdkafka's, for example {"compression.type": "zstd"}. Raises DependencyError if a frame is refused.
    """
    sent: dict[int, SentFrame] = {}
    refused: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            # With more, librdkafka acknowledges a first batch that a new partition refused and whose successor it took.
            "max.in.flight.requests.per.connection": 1,
            "partitioner": "murmur2_random",
            "message.max.bytes": _MAX_RECORD_BYTES,
            "queue.buffering.max.kbytes": _QUEUE_KIB,
            "linger.ms": 5,
            **(settings or {}),
        }
    )

    def acknowledged(number: int) -> Callable[[KafkaError | None, Message], None]:
        def on_delivery(error: KafkaError | None, message: Message) -> None:
            partition, offset = message.partition(), message.offset()
            if error is not None or partition is None or offset is None:
                refused.append(f"frame {number}: {error or 'acknowledged without its place'}")
            else:
                sent[number] = SentFrame(partition, offset, message.key())

        return on_delivery

    count = 0
    for number, (key, value, *rest) in enumerate(frames):
        options: dict[str, Any] = {} if partition_of is None else {"partition": partition_of(number)}
        if rest:
            options["headers"] = list(rest[0])
        while True:
            try:
                producer.produce(topic, value=value, key=key, on_delivery=acknowledged(number), **options)
                break
            except BufferError:
                producer.poll(_POLL_S)
        producer.poll(0)
        count += 1
    producer.flush(_ANSWER_S)
    if refused or len(sent) < count:
        raise DependencyError(f"{count - len(sent)} of {count} frames were not acknowledged: {refused[:3]}")
    return [sent[number] for number in range(count)]


class TopicReader:
    """Reads whole topics from their beginning, as far as they go at each call; no consumer group is touched.

    `committed_only` leaves out the records of open and aborted transactions.
    """

    def __init__(self, bootstrap_servers: str, topics: Sequence[str], committed_only: bool = False) -> None:
        self._settings: dict[str, str | int | bool] = {
            "bootstrap.servers": bootstrap_servers,
            "isolation.level": "read_committed" if committed_only else "read_uncommitted",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "fetch.message.max.bytes": _MAX_RECORD_BYTES,
            "fetch.queue.backoff.ms": 2,
            "queued.max.messages.kbytes": _QUEUE_KIB,
        }
        self._consumer = self._connect()
        described = self._consumer.list_topics(timeout=_ANSWER_S).topics
        self._next = {(name, number): 0 for name in topics for number in described[name].partitions}

    def _connect(self) -> Consumer:
        # A group is asked for by the client, and used for nothing.
        return Consumer({**self._settings, "group.id": f"audit-{uuid.uuid4().hex}"})

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def read_on(self) -> list[Message]:
        """The records that came since the last call. Raises DependencyError if the end is not reached in 60 s."""
        waiting = set(self._next)
        records: list[Message] = []
        deadline = time.monotonic() + _ANSWER_S
        self._assign(waiting)
        heard = time.monotonic()
        while waiting:
            came = self._take(self._consumer.consume(_RECORDS_A_POLL, timeout=_POLL_S), records, waiting)
            now = time.monotonic()
            if came:
                heard = now
            elif now > deadline:
                raise DependencyError(f"the end of {sorted(waiting)} was not reached within {_ANSWER_S:g} s")
            elif now > heard + _SILENCE_S:
                self._consumer.close()
                self._consumer = self._connect()
                self._assign(waiting)
                heard = now
        return records

    def _assign(self, places: Iterable[Place]) -> None:
        self._consumer.assign([TopicPartition(*place, self._next[place]) for place in places])

    def _take(self, messages: Iterable[Message], records: list[Message], waiting: set[Place]) -> bool:
        """Records, and the ends of partitions that are `waiting` for theirs; whether any of these came."""
        came = False
        for message in messages:
            error = message.error()
            place = (str(message.topic()), int(message.partition() or 0))
            offset = int(message.offset() or 0)
            came |= error is None or error.code() == KafkaError._PARTITION_EOF
            if error is None:
                records.append(message)
                self._next[place] = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._next[place] = offset  # behind records that are not shown: transaction markers
                waiting.discard(place)
            elif not error.retriable():
                raise KafkaException(error)
        return came


class Auditor:
    """Keeps what it has read of the predictions and dead letters, so that looking again costs only what is new."""

    def __init__(self, topics: Topics, sent: Sequence[SentFrame], committed_only: bool = False) -> None:
        self._topics = topics
        self._sent = sent
        self._reader = TopicReader(topics.bootstrap_servers, [topics.predictions, topics.dlq], committed_only)
        self._predictions: list[Outcome] = []
        self._dead_letters: list[Outcome] = []
        self.records: list[Message] = []  # all that was read so far

    def __enter__(self) -> Auditor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def look(self) -> Audit:
        """Read to the present end and compare."""
        for message in self._reader.read_on():
            self.records.append(message)
            if message.topic() == self._topics.predictions:
                self._predictions.append(_outcome(message, "ce_id"))
            else:
                self._dead_letters.append(_outcome(message, "dlq-source"))
        return compare(self._topics.frames, self._sent, self._predictions, self._dead_letters)

    def wait_until_done(self, timeout_s: float, check: Callable[[], None] | None = None) -> Audit:
        """Look until every sent frame has an outcome or no other has had one for `timeout_s`; the last look is returned.

        `check` is called between looks, and may raise: a worker that died need not be waited for.
        """
        lost, since = -1, 0.0
        while True:
            seen, now = self.look(), time.monotonic()
            if seen.lost != lost:
                lost, since = seen.lost, now
            if not lost or now > since + timeout_s:
                return seen
            if check is not None:
                check()
            time.sleep(_PAUSE_S)


def audit(topics: Topics, sent: Sequence[SentFrame], committed_only: bool = False) -> Audit:
    """Compare what was sent with all that lies on the predictions and dead-letter topics now."""
    with Auditor(topics, sent, committed_only) as auditor:
        return auditor.look()


def wait_until_done(
    topics: Topics, sent: Sequence[SentFrame], timeout_s: float, check: Callable[[], None] | None = None
) -> Audit:
    """See `Auditor.wait_until_done`."""
    with Auditor(topics, sent) as auditor:
        return auditor.wait_until_done(timeout_s, check)


def audit_statistics(topics: Topics, sent: Sequence[SentFrame], committed_only: bool = False) -> StatisticsAudit:
    """Whether the statistics topic counts each frame exactly once."""
    with TopicReader(topics.bootstrap_servers, [topics.stats], committed_only) as reader:
        ranges = [_statistics_range(message) for message in reader.read_on()]
    return compare_statistics(topics.frames, sent, ranges)


def committed_lag(topics: Topics) -> int:
    """Frames of the topic that the worker's group has not committed yet."""
    config = {"bootstrap.servers": topics.bootstrap_servers, "group.id": topics.group, "enable.auto.commit": False}
    with closing(Consumer(config)) as consumer:
        places = [TopicPartition(topics.frames, number) for number in range(topics.partitions)]
        lag = 0
        for place in consumer.committed(places, timeout=_ANSWER_S):
            low, high = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
            lag += high - (place.offset if place.offset >= 0 else low)
        return lag


def wait_until_committed(topics: Topics, timeout_s: float) -> int:
    """Wait until the group has committed all frames; returns the lag that is left, 0 unless `timeout_s` passed."""
    deadline = time.monotonic() + timeout_s
    while (lag := committed_lag(topics)) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return lag


def header(message: Message, name: str) -> bytes:
    """The value of a record's header. Raises KeyError if it has none of that name."""
    return cast(bytes, dict(message.headers() or [])[name])


def _outcome(message: Message, id_header: str) -> Outcome:
    place = (int(message.partition() or 0), int(message.offset() or 0))
    return Outcome(header(message, id_header).decode(), *place, message.key())


def _statistics_range(message: Message) -> StatisticsRange:
    record = json.loads(message.value() or b"")
    source = record["source"]
    return StatisticsRange(
        source_partition=source["partition"],
        start=source["start"],
        end=source["end"],
        frames=sum(stream["summary"]["frames"] for stream in record["streams"]),
        generation=-1 if record["generation"] is None else record["generation"],
        offset=int(message.offset() or 0),
    )
