"""The brokers of the rigs carry what the worker asks of them: with kafka-python, on a real Kafka and on the demo's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.rig.kafka import Broker, MakeTopics, StartKafka
from tests.rig.topics import create_topics
from worker.embedded.broker import EmbeddedBroker

LIVENESS_S = 60.0


@pytest.fixture(scope="session")
def tansu() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(params=["kafka", "tansu"])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "kafka":
        request.applymarker("kafka")
    chosen: Broker = request.getfixturevalue(request.param)
    return chosen


def send(bootstrap_servers: str, topic: str, partition: int, values: list[bytes]) -> list[int]:
    """Offsets the broker acknowledged, with the settings the worker publishes with."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap_servers, enable_idempotence=True, acks="all", max_request_size=2**24
    )
    try:
        futures = [producer.send(topic, value=value, key=b"cam", partition=partition) for value in values]
        return [int(future.get(LIVENESS_S).offset) for future in futures]
    finally:
        producer.close()


def read(consumer: KafkaConsumer, count: int) -> list[bytes]:
    values: list[bytes] = []
    deadline = time.monotonic() + LIVENESS_S
    while len(values) < count and time.monotonic() < deadline:
        # Long, because kafka-python 3.0.12 forgets a join that a poll's timeout interrupts, and then waits for ever.
        for records in consumer.poll(timeout_ms=int(LIVENESS_S * 1000)).values():
            values += [record.value for record in records]
    return values


def test_idempotently_produced_records_come_back_in_order(broker: Broker) -> None:
    topics = create_topics(broker.bootstrap_servers, partitions=2)
    values = [str(n).encode() for n in range(500)]
    assert send(broker.bootstrap_servers, topics.frames, 1, values) == list(range(500))
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topics.frames, 1)])
        assert read(consumer, 500) == values


def test_a_group_member_goes_on_at_the_committed_offset(broker: Broker) -> None:
    topics = create_topics(broker.bootstrap_servers, partitions=1)
    send(broker.bootstrap_servers, topics.frames, 0, [b"%d" % n for n in range(10)])

    def member() -> KafkaConsumer:
        return KafkaConsumer(
            topics.frames,
            bootstrap_servers=broker.bootstrap_servers,
            group_id=topics.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6000,  # Tansu holds the first join for half of it
            max_poll_records=4,
        )

    with member() as first:
        taken = read(first, 4)
        first.commit()
    with member() as second:
        assert taken + read(second, 10 - len(taken)) == [b"%d" % n for n in range(10)]


def test_a_frame_of_eight_mebibytes_goes_through(broker: Broker) -> None:
    topics = create_topics(broker.bootstrap_servers, partitions=1)
    frame = os.urandom(8 * 2**20)
    send(broker.bootstrap_servers, topics.frames, 0, [frame])
    with KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", max_partition_fetch_bytes=2**24
    ) as consumer:
        consumer.assign([TopicPartition(topics.frames, 0)])
        assert read(consumer, 1) == [frame]


def test_the_topics_of_a_test_are_gone_after_it(kafka: Broker, topics: MakeTopics) -> None:
    made = topics(partitions=3)
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    assert {made.frames, made.predictions, made.dlq, made.stats} <= set(admin.list_topics())
    admin.close()


def test_a_paused_broker_answers_again_when_resumed(start_kafka: StartKafka) -> None:
    server = start_kafka(proxied=True)
    topics = create_topics(server.bootstrap_servers, partitions=1)
    producer = KafkaProducer(bootstrap_servers=server.bootstrap_servers, acks="all")
    producer.send(topics.frames, b"before").get(LIVENESS_S)
    server.pause()
    stalled = producer.send(topics.frames, b"during")
    time.sleep(1)
    assert not stalled.is_done
    server.resume()
    assert stalled.get(LIVENESS_S).offset == 1

    # the same through the network: clients that come through the proxy are kept on it
    proxied = KafkaProducer(bootstrap_servers=server.proxied_bootstrap_servers, acks="all")
    proxied.send(topics.frames, b"through").get(LIVENESS_S)
    server.proxies[1].cut()
    late = proxied.send(topics.frames, b"late")
    time.sleep(1)
    assert not late.is_done
    server.proxies[1].heal()
    assert late.get(LIVENESS_S).offset == 3
    for client in (producer, proxied):
        client.close()

    server.restart()
    assert send(server.bootstrap_servers, topics.frames, 0, [b"after"]) == [4]


def test_three_nodes_lose_one_and_keep_every_acknowledged_record(start_kafka: StartKafka) -> None:
    server = start_kafka(nodes=3)
    topics = create_topics(server.bootstrap_servers, partitions=1)
    before = send(server.bootstrap_servers, topics.frames, 0, [b"%d" % n for n in range(100)])
    admin = KafkaAdminClient(bootstrap_servers=server.bootstrap_servers)
    (described,) = admin.describe_topics([topics.frames])
    admin.close()
    server.kill(described["partitions"][0]["leader_id"])
    after = send(server.bootstrap_servers, topics.frames, 0, [b"%d" % n for n in range(100, 200)])
    assert before + after == list(range(200))
    server.restart(described["partitions"][0]["leader_id"])


def test_the_embedded_broker_dies_with_a_killed_owner(tmp_path: Path) -> None:
    program = (
        "from worker.embedded.broker import EmbeddedBroker\n"
        "with EmbeddedBroker() as broker:\n"
        "    print(broker.pid, flush=True)\n"
        "    input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # the killed owner can't remove what it made there
    )
    assert owner.stdout is not None
    broker = int(owner.stdout.readline())
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + LIVENESS_S
    while psutil.pid_exists(broker) and psutil.Process(broker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the broker outlived its owner"
        time.sleep(0.05)
