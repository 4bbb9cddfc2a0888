"""What kafka-python 3.0.12 does that exactly-once has to guard against, shown against a real Kafka.

The behaviour of a library, not ours: a test here that fails after an upgrade says that its guard may go.
`docs/delivery.md` names the guards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import kafka.errors
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from tests.integration.watching import eventually
from tests.rig.audit import TopicReader
from tests.rig.kafka import MakeTopics, unavailable
from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics
from worker.errors import DependencyError, PublishFailed
from worker.frames import SourcePartition
from worker.ingest.kafka import Consumer
from worker.publish.kafka import TransactionalProducer
from worker.settings import DeliverySettings, KafkaSettings, PublishSettings

ANSWER_S = 10


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaServer]:
    """One that may be stopped, and ends transactions soon after their timeout."""
    try:
        server = KafkaServer.start(overrides={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200"})
    except DependencyError as error:
        unavailable(error)
    with server:
        yield server


@pytest.fixture
def made(topics: MakeTopics, broker: KafkaServer) -> Topics:
    return topics(partitions=2, broker=broker)


class NoPipeline:
    """A `Rebalance` for a consumer whose frames nobody takes."""

    def __init__(self) -> None:
        self.gone: list[int] = []

    def epoch(self, source: SourcePartition) -> int:
        return -1

    def assigned(self, sources: Collection[SourcePartition]) -> None: ...
    def revoking(self, sources: Collection[SourcePartition]) -> None: ...
    def revoked(self, sources: Collection[SourcePartition]) -> None: ...

    def lost(self, sources: Collection[SourcePartition]) -> None:
        self.gone += sorted(source.partition for source in sources)

    def drained(self, sources: Collection[SourcePartition]) -> dict[SourcePartition, int] | None:
        return {}


def producer(made: Topics, **settings: Any) -> Any:
    client = KafkaProducer(
        bootstrap_servers=made.bootstrap_servers,
        transactional_id=made.group,
        **{"retry_backoff_ms": 5, "linger_ms": 0} | settings,
    )
    client.init_transactions()
    return closing(client)


def member(made: Topics, listener: Any = None, **settings: Any) -> Any:
    client = KafkaConsumer(
        bootstrap_servers=made.bootstrap_servers,
        group_id=made.group,
        enable_auto_commit=False,
        **{"partition_assignment_strategy": [CooperativeStickyAssignor]} | settings,
    )
    client.partitions_for_topic(made.frames)
    client.subscribe([made.frames], listener=listener)
    return closing(client)


def offsets(made: Topics, partition: int, offset: int) -> dict[Any, Any]:
    return {TopicPartition(made.frames, partition): OffsetAndMetadata(offset, "", -1)}


def committed(made: Topics, partition: int, isolation_level: str = "read_committed", timeout_ms: int = 5000) -> Any:
    with closing(
        KafkaConsumer(bootstrap_servers=made.bootstrap_servers, group_id=made.group, isolation_level=isolation_level)
    ) as reader:
        return reader.committed(TopicPartition(made.frames, partition), timeout_ms=timeout_ms)


def joined(*members: Any) -> None:
    def settled() -> bool:
        # At once and for long: a join that outlasts the poll in which it began may be forgotten by the client.
        list(threads.map(lambda one: one.poll(1000), members))
        return sum(len(one.assignment()) for one in members) == 2 and all(one.assignment() for one in members)

    with ThreadPoolExecutor(len(members)) as threads:
        eventually(settled, "each member has its partitions")


def values(made: Topics, topic: str) -> list[bytes | None]:
    with TopicReader(made.bootstrap_servers, [topic], committed_only=True) as reader:
        return [message.value() for message in reader.read_on()]


def test_the_broker_takes_offsets_of_a_consumer_that_has_left_its_group_and_our_producer_does_not_send_them(
    made: Topics,
) -> None:
    with member(made) as stays, member(made) as leaves:
        joined(stays, leaves)
        leaves.unsubscribe()
        metadata = leaves.group_metadata()
        assert (metadata.generation_id, metadata.member_id) == (-1, "")
        with producer(made) as client:
            client.begin_transaction()
            client.send_offsets_to_transaction(offsets(made, 0, 5), metadata)
            client.commit_transaction()
        assert committed(made, 0) == 5
        ours = TransactionalProducer(
            KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group),
            PublishSettings(),
            DeliverySettings(),
            1_000_000,
            [made.predictions],
        )
        ours.begin()
        with pytest.raises(PublishFailed, match="in no group"):
            ours.commit({SourcePartition(made.frames, 0): 7}, lambda: metadata)
        ours.close()
        assert committed(made, 0) == 5


def test_offsets_of_an_aborted_transaction_go_along_with_the_next(made: Topics) -> None:
    with member(made) as consumer, producer(made) as client:
        eventually(lambda: bool(consumer.poll(20) or consumer.assignment()), "it is a member")
        metadata = consumer.group_metadata()
        client.begin_transaction()
        outdated = ConsumerGroupMetadata(made.group, metadata.generation_id + 1, metadata.member_id)
        with pytest.raises(kafka.errors.CommitFailedError):
            client.send_offsets_to_transaction(offsets(made, 0, 77), outdated)
        client.abort_transaction()
        client.begin_transaction()
        client.send_offsets_to_transaction(offsets(made, 1, 1), metadata)
        client.commit_transaction()
        assert committed(made, 0) == 77  # nobody sent it in a transaction that was committed
        assert committed(made, 1) == 1


def test_only_a_consumer_that_reads_committed_waits_for_offsets_of_an_open_transaction(made: Topics) -> None:
    with producer(made) as client:
        client.begin_transaction()
        client.send_offsets_to_transaction(offsets(made, 0, 9), ConsumerGroupMetadata(made.group))
        assert committed(made, 0, "read_uncommitted") is None
        with pytest.raises(kafka.errors.KafkaTimeoutError):
            committed(made, 0, "read_committed", timeout_ms=500)
        client.commit_transaction()
        assert committed(made, 0, "read_committed") == 9


def test_the_answer_to_a_look_up_that_was_given_up_is_given_to_the_next_one(made: Topics, broker: KafkaServer) -> None:
    source = TopicPartition(made.frames, 0)
    with closing(KafkaConsumer(bootstrap_servers=made.bootstrap_servers, group_id=made.group)) as consumer:
        consumer.commit(offsets(made, 0, 3))
        broker.pause()
        try:
            with pytest.raises(kafka.errors.KafkaTimeoutError):
                consumer.committed(source, timeout_ms=500)
        finally:
            broker.resume()
        consumer.commit(offsets(made, 0, 5))
        assert consumer.committed(source) == 3
        assert consumer.committed(source) == 5


class Losses(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.gone: list[int] = []

    def on_partitions_lost(self, lost: Any) -> None:
        self.gone += sorted(tp.partition for tp in lost)

    def on_partitions_revoked(self, revoked: Any) -> None: ...
    def on_partitions_assigned(self, assigned: Any) -> None: ...


def test_a_member_that_fell_out_of_its_group_is_told_of_no_loss_and_claims_what_it_owned(made: Topics) -> None:
    assignor, told = CooperativeStickyAssignor(), Losses()
    with member(made, told, partition_assignment_strategy=[assignor], session_timeout_ms=6000) as client:
        assert fell_out(assignor, client, lambda: client.poll(50)) == [0, 1]
        assert told.gone == []


def test_ours_is_told_of_the_loss_and_claims_nothing(made: Topics) -> None:
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group, session_timeout_ms=6000)
    told = NoPipeline()
    with closing(Consumer(settings, made.frames, told, 2**20)) as consumer:
        assignor = consumer.client._coordinator._assignors[CooperativeStickyAssignor.name]
        assert fell_out(assignor, consumer.client, lambda: consumer.poll(1, 0.05)) == []
        assert told.gone == [0, 1]


def fell_out(assignor: Any, client: Any, poll: Callable[[], Any]) -> list[int]:
    """Let its session end and join again; which partitions it claimed to own when it was let in."""
    eventually(lambda: poll() is not None and len(client.assignment()) == 2, "it has joined")
    before = client.group_metadata().member_id
    client._coordinator._disable_heartbeat()
    time.sleep(7)
    client._coordinator.request_rejoin()  # as a heartbeat does that finds the group rebalancing
    claims: list[list[int]] = []
    metadata = assignor.metadata

    def claiming(topics: Any) -> Any:
        subscription = metadata(topics)
        claims.append([number for topic in subscription.owned_partitions for number in topic.partitions])
        return subscription

    def back() -> bool:
        poll()
        return client.group_metadata().member_id not in ("", before) and len(client.assignment()) == 2

    assignor.metadata = claiming
    eventually(back, "it has joined again")
    assignor.metadata = metadata
    return claims[-1]


def test_ours_looks_up_committed_offsets_anew(made: Topics, broker: KafkaServer) -> None:
    source = SourcePartition(made.frames, 0)
    with closing(KafkaProducer(bootstrap_servers=made.bootstrap_servers)) as sender:
        for _ in range(5):
            sender.send(made.frames, b"x", partition=0).get(ANSWER_S)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        eventually(lambda: consumer.poll(1, 0.05) and source in consumer.assignment, "it has joined")
        consumer.commit_now({source: 3}, ANSWER_S)
        broker.pause()
        try:
            assert consumer.begin(source) is None
        finally:
            broker.resume()
        consumer.commit_now({source: 5}, ANSWER_S)
        assert consumer.begin(source) == (5, None)


def test_a_commit_succeeds_without_a_record_that_timed_out(made: Topics, broker: KafkaServer) -> None:
    with producer(made, delivery_timeout_ms=1100, request_timeout_ms=1000) as client:
        client.begin_transaction()
        client.send(made.predictions, b"in time", partition=0).get(ANSWER_S)
        broker.pause()
        late = client.send(made.predictions, b"late", partition=0)
        with pytest.raises(kafka.errors.KafkaTimeoutError):
            late.get(ANSWER_S)
        broker.resume()
        client.commit_transaction()
        assert late.failed()
        assert b"in time" in values(made, made.predictions)


def test_a_commit_succeeds_for_a_transaction_that_the_broker_had_ended_at_its_timeout(made: Topics) -> None:
    with producer(made, transaction_timeout_ms=1000) as client:
        client.begin_transaction()
        client.send(made.predictions, b"aborted", partition=0).get(ANSWER_S)
        time.sleep(3)  # the broker ends it, and raises the producer's epoch
        late = client.send(made.predictions, b"refused", partition=0)
        client.commit_transaction()
        with pytest.raises(kafka.errors.InvalidProducerEpochError):
            late.get(ANSWER_S)
        assert values(made, made.predictions) == []


def test_the_calls_of_a_transaction_wait_beyond_the_clients_own_limit(made: Topics, broker: KafkaServer) -> None:
    with producer(made, max_block_ms=500) as client:
        client.begin_transaction()
        client.send(made.predictions, b"first", partition=0).get(ANSWER_S)
        broker.pause()
        try:
            commit = threading.Thread(target=client.commit_transaction, daemon=True)
            commit.start()
            commit.join(3)
            assert commit.is_alive()
        finally:
            broker.resume()
        commit.join(ANSWER_S)
        assert values(made, made.predictions) == [b"first"]


class Told(ConsumerRebalanceListener):  # type: ignore[misc]
    """A synchronous listener that does what one would do: commit what is revoked."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self.kept: list[set[Any]] = []
        self.errors: list[Exception] = []

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.kept.append(revoked & self.consumer.assignment())
        try:
            self.consumer.commit({tp: OffsetAndMetadata(0, "", -1) for tp in revoked})
        except Exception as error:
            self.errors.append(error)

    def on_partitions_assigned(self, assigned: Any) -> None:
        pass


def test_a_synchronous_listener_can_not_commit_and_revoked_partitions_are_gone_before_it_hears_of_them(
    made: Topics,
) -> None:
    told = Told()
    with member(made, told) as first:
        told.consumer = first
        joined(first)
        with member(made) as second:
            joined(first, second)
            assert told.kept == [set()]
            assert len(told.errors) == 1
