"""What kafka-python 3.0.12's consumer does in its group that ours has to guard against, shown against a real Kafka.

The behaviour of a library, not ours: a test here that fails after an upgrade says that its guard may go. Beside each
stands one of ours. `docs/delivery.md` names the guards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any

import kafka.errors
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from tests.acceptance.corpus import small
from tests.integration.test_client_transactions import member, offsets
from tests.integration.watching import eventually
from tests.rig.audit import produce_frames
from tests.rig.kafka import MakeTopics
from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics
from worker.frames import SourcePartition
from worker.ingest.kafka import Consumer
from worker.settings import KafkaSettings

ANSWER_S = 10
STILL_S = 4  # eight times as long as a fetch waits
PER_PARTITION = 10


@pytest.fixture
def made(topics: MakeTopics, own_broker: KafkaServer) -> Topics:
    return topics(partitions=2, broker=own_broker)


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


def test_polls_do_not_wait_while_a_heartbeat_is_overdue_and_ours_do(made: Topics, own_broker: KafkaServer) -> None:
    def looks(client: Any, poll: Callable[[float], Any]) -> int:
        """How often one poll of half a second looks for records of a broker that hangs."""
        eventually(lambda: poll(0.05) is not None and len(client.assignment()) == 2, "it has joined")
        seen = 0
        fetch = client._fetcher.fetch_records

        def counting(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            return fetch(*arguments, **options)

        own_broker.pause()
        try:
            time.sleep(4.5)  # one heartbeat went out within two seconds, the next is due
            poll(0.05)  # what was fetched before
            client._fetcher.fetch_records = counting
            poll(0.5)
        finally:
            own_broker.resume()
        client._fetcher.fetch_records = fetch
        return seen

    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group, session_timeout_ms=6000)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        eventually(lambda: consumer.poll(1, 0.05) and len(consumer.assignment) == 2, "it has joined")
        for source in consumer.assignment:
            consumer.begin(source)
            consumer.resume([source])
        assert looks(consumer.client, lambda seconds: consumer.poll(1, seconds)) <= 11
    with member(made, session_timeout_ms=6000, heartbeat_interval_ms=2000) as client:
        assert looks(client, lambda seconds: client.poll(1000 * seconds)) > 50


def test_a_partition_paused_with_records_at_hand_stands_still_when_it_is_resumed_and_ours_goes_on(made: Topics) -> None:
    sent = made.partitions * [PER_PARTITION]
    produce_frames(made.bootstrap_servers, made.frames, small(sum(sent), 2), lambda number: number % made.partitions)

    def come(client: Any, poll: Callable[[], Any]) -> list[int]:
        """How many records of each partition come if the first that has some is paused and the other read to its end."""
        seen = [0] * made.partitions

        def read() -> bool:
            for source, count in poll():
                seen[source] += count
            return sum(seen) > 0

        eventually(read, "a record")
        first = seen.index(max(seen))
        tp = TopicPartition(made.frames, first)
        client.pause(tp)
        eventually(lambda: read() and seen[1 - first] == PER_PARTITION, "the other's records")
        client.resume(tp)
        give_up = time.monotonic() + STILL_S
        while seen != sent and time.monotonic() < give_up:
            read()
        return sorted(seen)

    def polled(client: Any) -> Any:
        return [(tp.partition, len(records)) for tp, records in client.poll(50, max_records=1).items()]

    with member(made, auto_offset_reset="earliest") as client:
        assert come(client, lambda: polled(client)) == [1, PER_PARTITION]
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        eventually(lambda: consumer.poll(1, 0.05) and len(consumer.assignment) == 2, "it has joined")
        for source in consumer.assignment:
            consumer.begin(source)
        consumer.resume(consumer.assignment)

        def ours() -> Any:
            return [(chunk.source.partition, len(chunk.frames)) for chunk in consumer.poll(1, 0.05)[0]]

        assert come(consumer.client, ours) == sent


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


def test_the_answer_to_a_look_up_that_was_given_up_is_given_to_the_next_one(
    made: Topics, own_broker: KafkaServer
) -> None:
    source = TopicPartition(made.frames, 0)
    with closing(KafkaConsumer(bootstrap_servers=made.bootstrap_servers, group_id=made.group)) as consumer:
        consumer.commit(offsets(made, 0, 3))
        own_broker.pause()
        try:
            with pytest.raises(kafka.errors.KafkaTimeoutError):
                consumer.committed(source, timeout_ms=500)
        finally:
            own_broker.resume()
        consumer.commit(offsets(made, 0, 5))
        assert consumer.committed(source) == 3
        assert consumer.committed(source) == 5


def test_ours_looks_up_committed_offsets_anew(made: Topics, own_broker: KafkaServer) -> None:
    source = SourcePartition(made.frames, 0)
    with closing(KafkaProducer(bootstrap_servers=made.bootstrap_servers)) as sender:
        for _ in range(5):
            sender.send(made.frames, b"x", partition=0).get(ANSWER_S)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        eventually(lambda: consumer.poll(1, 0.05) and source in consumer.assignment, "it has joined")
        consumer.commit_now({source: 3}, ANSWER_S)
        own_broker.pause()
        try:
            assert consumer.begin(source) is None
        finally:
            own_broker.resume()
        consumer.commit_now({source: 5}, ANSWER_S)
        assert consumer.begin(source) == (5, None)
