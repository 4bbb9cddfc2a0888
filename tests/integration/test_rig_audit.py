"""The auditor on a real Kafka: what it is told to find was planted there by the test."""

from __future__ import annotations

import json
import uuid
from contextlib import closing

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.rig.audit import (
    Auditor,
    TopicReader,
    audit,
    audit_statistics,
    committed_lag,
    header,
    produce_frames,
    wait_until_committed,
    wait_until_done,
)
from tests.rig.kafka import Broker, MakeTopics
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from worker.errors import DependencyError


def send(topics: Topics, count: int = 100) -> list[SentFrame]:
    return produce_frames(
        topics.bootstrap_servers,
        topics.frames,
        ((b"cam-%d" % (n % 8), b"frame %d" % n) for n in range(count)),
        partition_of=lambda n: n % topics.partitions,
    )


def answer(
    topics: Topics, predicted: list[SentFrame], dead: list[SentFrame], transaction: str | None = None
) -> Producer:
    """Put an outcome for each frame on its topic, by key, as a worker would. An open transaction is left open."""
    settings = {"bootstrap.servers": topics.bootstrap_servers, "enable.idempotence": True, "linger.ms": 5}
    if transaction is not None:
        settings["transactional.id"] = transaction
    producer = Producer(settings)
    if transaction is not None:
        producer.init_transactions()
        producer.begin_transaction()
    for topic, name, frames in ((topics.predictions, "ce_id", predicted), (topics.dlq, "dlq-source", dead)):
        for frame in frames:
            id_ = f"{topics.frames}/{frame.partition}/{frame.offset}"
            producer.produce(topic, b"{}", frame.key, headers=[(name, id_.encode())])
    producer.flush()
    return producer


def test_planted_losses_duplicates_and_dead_letters_are_counted(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=4)
    sent = send(made)
    answer(made, [*sent[:80], *sent[10:15]], sent[85:])
    found = audit(made, sent)
    assert (found.sent, found.predicted, found.dead_lettered) == (100, 80, 15)
    assert set(found.lost_ids) == {f"{made.frames}/{f.partition}/{f.offset}" for f in sent[80:85]}
    assert (found.duplicates_raw, found.duplicates, found.out_of_order) == (5, 5, 0)


def test_a_prediction_written_behind_a_later_one_is_out_of_order(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=4)
    sent = send(made)
    later, earlier = sent[8], sent[0]  # the same camera and partition
    answer(made, [later, earlier, *sent[1:8], *sent[9:]], [])
    assert audit(made, sent).out_of_order_ids == (f"{made.frames}/{earlier.partition}/{earlier.offset}",)


def test_an_aborted_transaction_is_no_outcome_to_a_reader_of_committed_records(
    kafka: Broker, topics: MakeTopics
) -> None:
    made = topics(partitions=1)
    sent = send(made, 20)
    answer(made, sent[:10], [], transaction=f"aborted-{uuid.uuid4().hex}").abort_transaction()
    answer(made, sent, [], transaction=f"committed-{uuid.uuid4().hex}").commit_transaction()
    assert audit(made, sent, committed_only=True).problems == []
    assert audit(made, sent).duplicates == 10


def test_an_open_transaction_is_not_waited_for(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=1)
    sent = send(made, 20)
    producer = answer(made, sent, [], transaction=f"open-{uuid.uuid4().hex}")
    assert audit(made, sent, committed_only=True).lost == 20
    producer.commit_transaction()
    assert audit(made, sent, committed_only=True).problems == []


def test_looking_again_sees_only_what_came_since_and_all_of_it(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=2)
    sent = send(made)
    with Auditor(made, sent) as auditor:
        assert auditor.look().lost == 100
        answer(made, sent[:60], [])
        assert auditor.look().lost == 40
        answer(made, sent[60:], [])
        assert auditor.wait_until_done(timeout_s=30).problems == []


def test_waiting_ends_at_the_timeout_or_when_the_check_raises(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=1)
    sent = send(made, 3)
    assert wait_until_done(made, sent, timeout_s=0.2).lost == 3

    def dead() -> None:
        raise DependencyError("the worker ended")

    with pytest.raises(DependencyError, match="the worker ended"):
        wait_until_done(made, sent, timeout_s=60, check=dead)


def test_frames_arrive_as_they_were_given(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=3)
    frames = [
        (b"cam", b"pixels", [("frame-id", b"7"), ("frame-id", b"8"), ("none", None)]),
        (None, b"", []),
        (None, None, []),
    ]
    sent = produce_frames(
        made.bootstrap_servers, made.frames, frames, lambda n: 2, settings={"compression.type": "zstd"}
    )
    assert sent == [SentFrame(2, 0, b"cam"), SentFrame(2, 1, None), SentFrame(2, 2, None)]
    with TopicReader(made.bootstrap_servers, [made.frames]) as reader:
        first, empty, null = reader.read_on()
    assert (first.value(), empty.value(), null.value()) == (b"pixels", b"", None)
    assert header(first, "frame-id") == b"8"
    assert len(first.headers() or []) == 3


def test_a_frame_the_broker_refuses_is_an_error(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=1, configs={"max.message.bytes": "1000"})
    with pytest.raises(DependencyError, match="1 of 1 frames were not acknowledged"):
        produce_frames(made.bootstrap_servers, made.frames, [(b"k", bytes(5000))])


def test_keys_go_to_the_partitions_kafkas_own_clients_choose(kafka: Broker, topics: MakeTopics) -> None:
    from kafka import KafkaProducer

    made = topics(partitions=16)
    keys = [b"cam-%d" % n for n in range(50)]
    sent = produce_frames(made.bootstrap_servers, made.frames, [(key, b"x") for key in keys])
    with closing(KafkaProducer(bootstrap_servers=made.bootstrap_servers)) as producer:
        chosen = [producer.send(made.frames, b"x", key=key).get(30).partition for key in keys]
    assert [frame.partition for frame in sent] == chosen


def test_lag_is_what_the_group_has_not_committed(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=2)
    send(made, 10)
    assert committed_lag(made) == 10
    group = {"bootstrap.servers": made.bootstrap_servers, "group.id": made.group}
    with closing(Consumer(group)) as consumer:
        consumer.commit(
            offsets=[TopicPartition(made.frames, 0, 5), TopicPartition(made.frames, 1, 3)], asynchronous=False
        )
    assert committed_lag(made) == 2
    assert wait_until_committed(made, timeout_s=0.2) == 2


def test_statistics_are_read_and_their_replacements_applied(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=1)
    sent = send(made, 10)
    producer = Producer({"bootstrap.servers": made.bootstrap_servers})
    for generation, start, end in ((1, 0, 4), (2, 0, 3), (2, 3, 9)):
        streams = [{"stream": "cam", "summary": {"frames": end - start}}]
        source = {"topic": made.frames, "partition": 0, "start": start, "end": end}
        producer.produce(made.stats, json.dumps({"source": source, "generation": generation, "streams": streams}))
    producer.flush()
    found = audit_statistics(made, sent)
    assert (found.sent, found.counted, found.uncovered_ids) == (10, 9, (f"{made.frames}/0/9",))
