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
MANY = 80


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
        begun(consumer, 2)
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
        begun(consumer, 2)

        def ours() -> Any:
            return [(chunk.source.partition, len(chunk.frames)) for chunk in consumer.poll(1, 0.05)[0]]

        assert come(consumer.client, ours) == sent


def test_parked_records_take_turns_with_those_at_hand(topics: MakeTopics, own_broker: KafkaServer) -> None:
    made = topics(partitions=3, broker=own_broker)
    produce_frames(made.bootstrap_servers, made.frames, small(3 * MANY, 2), lambda number: number % 3)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        begun(consumer, 3)
        seen = [0, 0, 0]

        def read() -> bool:
            for chunk in consumer.poll(1, 0.05)[0]:
                seen[chunk.source.partition] += len(chunk.frames)
            return sum(seen) > 0

        eventually(read, "a record")
        first = SourcePartition(made.frames, seen.index(1))
        consumer.pause([first])
        eventually(lambda: read() and sum(seen) > 5, "others' records")
        consumer.resume([first])
        eventually(lambda: read() and sum(seen) > 5 + MANY // 2, "more records, while the others have plenty left")
        assert seen[first.partition] > MANY // 8


def test_what_is_left_of_a_partition_is_forgotten_when_it_begins_anew(made: Topics) -> None:
    produce_frames(made.bootstrap_servers, made.frames, small(20, 2), lambda number: number % made.partitions)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        begun(consumer, 2)
        eventually(lambda: bool(consumer.poll(3, 0.05)[0]), "records, with others at hand")
        fetcher = consumer.client._fetcher
        at_hand = fetcher._next_partition_records
        at_hand.record_iterator = iter(())  # as an error leaves it: ended, and not known to be
        source = SourcePartition(made.frames, at_hand.topic_partition.partition)
        consumer.begin(source)
        assert fetcher._next_partition_records is None
        fetcher._paused_partition_records[at_hand.topic_partition] = at_hand
        consumer.begin(source)
        again: list[int] = []

        def read() -> bool:
            again.extend(
                frame.offset for chunk in consumer.poll(20, 0.05)[0] if chunk.source == source for frame in chunk.frames
            )
            return len(again) >= PER_PARTITION

        eventually(read, "all of it, from its beginning")
        assert again[:PER_PARTITION] == list(range(PER_PARTITION))


def test_a_partition_without_a_position_ends_every_poll_and_ours_goes_on(made: Topics) -> None:
    produce_frames(made.bootstrap_servers, made.frames, small(4, 2), lambda number: number % made.partitions)
    with member(made, auto_offset_reset="none") as client:
        with pytest.raises(kafka.errors.NoOffsetForPartitionError):
            eventually(lambda: client.poll(50) and False, "its first poll with partitions")
        client.seek(TopicPartition(made.frames, 0), 0)
        with pytest.raises(kafka.errors.NoOffsetForPartitionError):
            eventually(lambda: client.poll(50) and False, "a poll although one of them has a position")
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        source = SourcePartition(made.frames, 0)
        eventually(lambda: consumer.poll(1, 0.05) and source in consumer.assignment, "it has joined")
        consumer.begin(source)
        consumer.resume([source])
        eventually(lambda: bool(consumer.poll(1, 0.05)[0]), "a record of the partition that has begun")


def test_an_error_that_no_record_raised_stops_no_partition(made: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    produce_frames(made.bootstrap_servers, made.frames, small(20, 2), lambda number: number % made.partitions)
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        begun(consumer, 2)
        eventually(lambda: bool(consumer.poll(1, 0.05)[0]), "a record, with others at hand")

        def fails(**_: Any) -> Any:
            raise OSError("the coordinator's connection")

        with monkeypatch.context() as broken:
            broken.setattr(consumer.client._coordinator, "poll", fails)
            with pytest.raises(OSError, match="the coordinator's connection"):
                consumer.poll(1, 0.05)
        eventually(lambda: bool(consumer.poll(1, 0.05)[0]), "the records at hand")


def begun(consumer: Consumer, partitions: int) -> None:
    """Let it join and read them all from their beginning."""
    eventually(lambda: consumer.poll(1, 0.05) and len(consumer.assignment) == partitions, "it has joined")
    for source in consumer.assignment:
        consumer.begin(source)
    consumer.resume(consumer.assignment)


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
