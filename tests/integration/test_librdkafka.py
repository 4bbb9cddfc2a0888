"""The adapters of librdkafka against a real Kafka: what they guard against, most of it in this process and without a model.

The whole way over librdkafka is in test_fast_client.py; `make test-clients` has the rest of the suite over it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing, contextmanager
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from tests.acceptance.feed import Feed
from tests.integration.conftest import MakeSettings
from tests.integration.test_rebalance import owned
from tests.integration.watching import eventually, until
from tests.rig.audit import TopicReader, committed_lag, produce_frames, wait_until_done
from tests.rig.kafka import MakeTopics, StartKafka
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.errors import Fenced, PublishFailed
from worker.frames import Frame, SourcePartition
from worker.ingest.confluent import Consumer
from worker.ingest.confluent_client import Membership
from worker.ingest.partitions import Skipped, Unreadable
from worker.publish.confluent import Producer, TransactionalProducer
from worker.publish.messages import Message
from worker.settings import DeliverySettings, KafkaSettings, PublishSettings

CLIENT = "HEADRACE_KAFKA__CLIENT"
FETCH_BYTES = 256 * 1024
QUEUE_BYTES = 2**20
BATCH_BYTES = 1_000_000
NOBODY = Membership(1, "x", b"CGMDv2:\1\0\0\0g\0x\0\1")  # where nothing of the group is committed


class Member:
    """A consumer with the pipeline's part done in a plain way: every frame is complete as it comes."""

    def __init__(self, made: Topics) -> None:
        self.frames: list[Frame] = []
        self.skipped: list[Skipped] = []
        self.unreadable: list[Unreadable] = []
        self.new: list[SourcePartition] = []
        self.told: list[tuple[str, list[SourcePartition]]] = []
        settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group, session_timeout_ms=6000)
        self.consumer = Consumer(settings, made.frames, self, FETCH_BYTES)

    def epoch(self, source: SourcePartition) -> int:
        return 1

    def assigned(self, sources: Collection[SourcePartition]) -> None:
        self.new += sources

    def revoking(self, sources: Collection[SourcePartition]) -> None:
        self.told.append(("revoking", sorted(sources)))

    def drained(self, sources: Collection[SourcePartition]) -> dict[SourcePartition, int] | None:
        ends = {frame.source: frame.offset + 1 for frame in self.frames}
        return {source: end for source, end in ends.items() if source in sources}

    def lost(self, sources: Collection[SourcePartition]) -> None:
        self.told.append(("lost", sorted(sources)))

    def revoked(self, sources: Collection[SourcePartition]) -> None:
        self.told.append(("revoked", sorted(sources)))

    def turn(self) -> None:
        begun = [source for source in self.new if self.consumer.begin(source) is not None]
        self.new = [source for source in self.new if source not in begun]
        self.consumer.resume(begun)
        chunks, skipped, unreadable = self.consumer.poll(64, 0.05)
        for chunk in chunks:
            assert chunk.position == chunk.frames[-1].offset + 1
            self.frames += chunk.frames
        self.skipped += skipped
        self.unreadable += unreadable

    def offsets(self, partition: int) -> list[int]:
        return [frame.offset for frame in self.frames if frame.source.partition == partition]


@contextmanager
def member(made: Topics) -> Any:
    one = Member(made)
    try:
        yield one
    finally:
        one.consumer.close()


def turns(holds: Any, *members: Member) -> None:
    def reached() -> bool:
        for one in members:
            one.turn()
        return bool(holds())

    eventually(reached, "the members have got there")


def send(made: Topics, count: int, partitions: int = 1) -> None:
    frames = [(b"cam", b"%d" % number * 2000) for number in range(count)]
    produce_frames(made.bootstrap_servers, made.frames, frames, partition_of=lambda n: n % partitions)


def transactional(made: Topics, name: str = "one", timeout_ms: int = 15_000) -> TransactionalProducer:
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    delivery = DeliverySettings(transactional_id=f"{made.group}.{name}", transaction_timeout_ms=timeout_ms)
    return TransactionalProducer(settings, PublishSettings(), delivery, BATCH_BYTES, QUEUE_BYTES, [made.predictions])


def test_pauses_and_going_back_give_every_frame_once_and_in_order(topics: MakeTopics) -> None:
    made = topics(partitions=2)
    send(made, 400, partitions=2)
    with member(made) as one:
        turns(lambda: len(one.frames) >= 100, one)
        for _ in range(5):  # what was fetched and not given out is fetched again
            one.consumer.pause(one.consumer.assignment)
            before = len(one.frames)
            one.turn()
            assert len(one.frames) == before
            one.consumer.resume(one.consumer.assignment)
            one.turn()
        turns(lambda: len(one.frames) >= 400, one)
        assert one.offsets(0) == one.offsets(1) == list(range(200))
        one.consumer.seek(SourcePartition(made.frames, 1), 150)
        turns(lambda: len(one.frames) >= 450, one)
        assert one.offsets(1) == [*range(200), *range(150, 200)]
        turns(lambda: set(one.consumer.lags(fresh=True).values()) == {0}, one)


def test_a_partition_goes_over_with_its_frames_committed_before_the_other_member_begins(topics: MakeTopics) -> None:
    made = topics(partitions=2)
    send(made, 100, partitions=2)
    with member(made) as first:
        turns(lambda: len(first.frames) == 100, first)
        with member(made) as second:
            turns(lambda: len(first.consumer.assignment) == len(second.consumer.assignment) == 1, first, second)
            (moved,) = second.consumer.assignment
            assert first.told == [("revoking", [moved]), ("revoked", [moved])]
            send(made, 20, partitions=2)
            turns(lambda: len(first.frames) + len(second.frames) == 120, first, second)
        assert second.offsets(moved.partition) == list(range(50, 60))


def test_an_offset_that_is_gone_while_it_is_to_be_read_is_told_and_reading_goes_on(topics: MakeTopics) -> None:
    made = topics(partitions=1)
    send(made, 100)
    source = SourcePartition(made.frames, 0)
    with member(made) as one, closing(KafkaAdminClient(bootstrap_servers=made.bootstrap_servers)) as admin:
        turns(lambda: len(one.frames) == 100, one)
        admin.delete_records({TopicPartition(made.frames, 0): 60})
        one.frames.clear()
        one.consumer.seek(source, 10)
        turns(lambda: len(one.frames) == 40, one)
        assert one.skipped == [Skipped(source, 10, 60, 60)]
        assert one.offsets(0) == list(range(60, 100))


class _NoText(str):
    """A header's key as Kafka does not forbid it, and no client makes it."""

    __slots__ = ()

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xffid"


def test_a_header_that_is_no_text_stops_its_partition_and_is_named(topics: MakeTopics) -> None:
    made = topics(partitions=1)
    send(made, 60)  # by then Python has taken its shortcuts, which the client's broken list slips through
    with closing(KafkaProducer(bootstrap_servers=made.bootstrap_servers)) as producer:
        producer.send(made.frames, b"x", b"cam", [(_NoText("id"), b"1")]).get(60)
    send(made, 3)
    with member(made) as one:
        turns(lambda: one.unreadable, one)
        for _ in range(10):
            one.turn()
        assert one.offsets(0) == list(range(60))
        (stopped,) = one.unreadable
        assert (stopped.offset, one.consumer.position(stopped.source)) == (60, 60)
        assert "0xff" in stopped.detail


def test_a_transaction_counts_with_its_offsets_or_not_at_all(topics: MakeTopics) -> None:
    made = topics(partitions=1)
    send(made, 10)
    source = SourcePartition(made.frames, 0)
    with member(made) as one, closing(transactional(made)) as producer:
        turns(lambda: len(one.frames) == 10, one)
        producer.begin()
        producer.send(Message(made.predictions, b"cam", b"counts", []))
        producer.commit({source: 7}, one.consumer.membership)
        producer.begin()
        producer.send(Message(made.predictions, b"cam", b"never", []))
        with pytest.raises(PublishFailed, match="in no group"):
            producer.commit({source: 8}, lambda: Membership(-1, "", b""))
        producer.renew()
        producer.begin()
        producer.send(Message(made.predictions, b"cam", b"never", []))
        outdated = one.consumer.membership()
        raw = outdated.raw.replace(outdated.member_id.encode(), b"x" * len(outdated.member_id))
        with pytest.raises(PublishFailed):
            producer.commit({source: 9}, lambda: Membership(outdated.generation_id, "x", raw))
        producer.renew()
        assert one.consumer.begin(source) == (7, None)
    with TopicReader(made.bootstrap_servers, [made.predictions], committed_only=True) as reader:
        assert [message.value() for message in reader.read_on()] == [b"counts"]


def test_a_record_that_the_broker_refused_behind_one_it_took_is_not_told_as_written(
    start_kafka: StartKafka, topics: MakeTopics
) -> None:
    broker = start_kafka(proxied=True)
    made = topics(partitions=1, broker=broker)
    settings = KafkaSettings(bootstrap_servers=broker.proxied_bootstrap_servers, group_id=made.group)
    proxy = broker.proxies[1]
    with closing(Producer(settings, PublishSettings(linger_ms=0), BATCH_BYTES, QUEUE_BYTES)) as producer:
        for topic in (made.predictions, made.stats):  # the client knows both topics, and the broker the client
            producer._client.list_topics(topic, timeout=30)
        known = producer.send(Message(made.stats, b"cam", b"first", []))
        eventually(lambda: known.is_done, "it is acknowledged")
        proxy.spoil(b"refused")
        proxy.pause()
        values = [b"refused", b"behind it", b"behind that"]
        sent = {}
        for value in values:
            sent[value] = producer.send(Message(made.predictions, b"cam", value, []))
            time.sleep(0.3)  # each goes out for itself
        proxy.heal()
        eventually(lambda: all(delivered.is_done for delivered in sent.values()), "all is told")
    with TopicReader(made.bootstrap_servers, [made.predictions]) as reader:
        written = {message.value() for message in reader.read_on()}
    assert b"refused" not in written
    assert {value for value, delivered in sent.items() if delivered.exception is None} <= written


def test_a_producer_whose_id_another_has_taken_says_so(topics: MakeTopics) -> None:
    made = topics(partitions=1)
    with closing(transactional(made)) as first:
        first.begin()
        delivered = first.send(Message(made.predictions, b"cam", b"first", []))
        eventually(lambda: delivered.is_done, "it is acknowledged")
        with closing(transactional(made)):
            first.send(Message(made.predictions, b"cam", b"late", []))
            with pytest.raises(Fenced, match=f"transactional id {made.group}.one"):
                first.commit({}, lambda: NOBODY)


def test_what_a_silent_broker_does_not_answer_is_given_up_in_time_and_the_producer_made_anew_goes_on(
    start_kafka: StartKafka, topics: MakeTopics
) -> None:
    broker = start_kafka()
    made = topics(partitions=1, broker=broker)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    plain = Producer(settings, PublishSettings(delivery_timeout_ms=1000), BATCH_BYTES, QUEUE_BYTES)
    with closing(plain), closing(transactional(made, timeout_ms=2000)) as producer:
        producer.begin()
        delivered = producer.send(Message(made.predictions, b"cam", b"never", []))
        eventually(lambda: delivered.is_done, "it is acknowledged")
        broker.pause()
        started = time.monotonic()
        late = plain.send(Message(made.predictions, b"cam", b"never", []))
        with pytest.raises(PublishFailed):
            producer.commit({SourcePartition(made.frames, 0): 1}, lambda: NOBODY)
        eventually(lambda: late.is_done, "it is given up")
        assert late.exception is not None
        assert time.monotonic() - started < 30
        broker.resume()
        for anew in (producer, plain):
            anew.renew()
        producer.begin()
        producer.send(Message(made.predictions, b"cam", b"counts", []))
        sure = plain.send(Message(made.predictions, b"cam", b"counts", []))
        producer.commit({}, lambda: NOBODY)
        eventually(lambda: sure.is_done, "it is acknowledged")
        assert sure.exception is None
    with TopicReader(made.bootstrap_servers, [made.predictions], committed_only=True) as reader:
        assert [message.value() for message in reader.read_on()] == [b"counts"] * 2


def test_a_group_goes_over_to_the_other_client_one_worker_after_the_other(
    topics: MakeTopics, settings: MakeSettings
) -> None:
    made = topics(partitions=4)
    with Feed(made, per_s=80) as feed, WorkerProcess(settings(made), env={CLIENT: "kafka-python"}) as old:
        old.wait_ready()
        owned(old, 4)
        with WorkerProcess(settings(made), env={CLIENT: "confluent"}) as new:
            new.wait_ready()
            for worker in (old, new):
                owned(worker, 2)
            until(new, "frames_predicted_total", 50)
            assert old.stop() == 0
            owned(new, 4)
            done = wait_until_done(made, feed.end(at_least=300), 60, new.check_alive)
            assert new.stop() == 0
    assert done.problems == [], done
    assert done.duplicates_raw == 0
    assert committed_lag(made) == 0
