"""What kafka-python 3.0.12 does that exactly-once has to guard against, shown against a real Kafka.

The behaviour of a library, not ours: a test here that fails after an upgrade says that its guard may go.
`docs/delivery.md` names the guards.
"""

from __future__ import annotations

import threading
import time
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
from tests.rig.kafka import MakeTopics
from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics
from worker.errors import PublishFailed
from worker.frames import SourcePartition
from worker.publish.kafka import TransactionalProducer
from worker.settings import DeliverySettings, KafkaSettings, PublishSettings

ANSWER_S = 10


@pytest.fixture
def made(topics: MakeTopics, own_broker: KafkaServer) -> Topics:
    return topics(partitions=2, broker=own_broker)


def producer(made: Topics, **settings: Any) -> Any:
    usual = {"bootstrap_servers": made.bootstrap_servers, "retry_backoff_ms": 5, "linger_ms": 0}
    client = KafkaProducer(transactional_id=made.group, **usual | settings)
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


def test_a_commit_succeeds_without_a_record_that_timed_out(made: Topics, own_broker: KafkaServer) -> None:
    with producer(made, delivery_timeout_ms=1100, request_timeout_ms=1000) as client:
        client.begin_transaction()
        client.send(made.predictions, b"in time", partition=0).get(ANSWER_S)
        own_broker.pause()
        late = client.send(made.predictions, b"late", partition=0)
        with pytest.raises(kafka.errors.KafkaTimeoutError):
            late.get(ANSWER_S)
        own_broker.resume()
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


def test_the_calls_of_a_transaction_wait_beyond_the_clients_own_limit(made: Topics, own_broker: KafkaServer) -> None:
    with producer(made, max_block_ms=500) as client:
        client.begin_transaction()
        client.send(made.predictions, b"first", partition=0).get(ANSWER_S)
        own_broker.pause()
        try:
            commit = threading.Thread(target=client.commit_transaction, daemon=True)
            commit.start()
            commit.join(3)
            assert commit.is_alive()
        finally:
            own_broker.resume()
        commit.join(ANSWER_S)
        assert values(made, made.predictions) == [b"first"]


def test_a_producer_does_not_pause_between_tries_to_reach_a_broker_that_drops_connections_and_ours_does(
    made: Topics, own_broker: KafkaServer
) -> None:
    proxy, through = own_broker.proxies[1], own_broker.proxied_bootstrap_servers

    def tries_a_second(client: Any) -> int:
        """With a transaction to end, and no broker."""
        network = client._sender._client
        reached, tried = network.await_ready, 0

        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal tried
            tried += 1
            return reached(*arguments, **options)

        client.begin_transaction()
        client.send(made.predictions, b"", partition=0).get(ANSWER_S)
        network.await_ready = counting
        proxy.cut()
        try:
            threading.Thread(target=client.commit_transaction, daemon=True).start()
            eventually(lambda: tried > 0, "it misses the broker")
            before = tried
            time.sleep(1.0)
            return tried - before
        finally:
            proxy.heal()

    settings = KafkaSettings(bootstrap_servers=through, group_id=made.group)
    ours = TransactionalProducer(settings, PublishSettings(), DeliverySettings(), 1_000_000, [made.predictions])
    with closing(ours):
        assert tries_a_second(ours._client) <= 11
    with producer(made, bootstrap_servers=through) as client:
        assert tries_a_second(client) > 50


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
