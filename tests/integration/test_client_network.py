"""What kafka-python 3.0.12 does where connections fail in unusual ways, and how ours goes on: `worker/kafka_network.py`."""

from __future__ import annotations

import copy
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import kafka.errors
import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.net.manager import KafkaConnectionManager

from tests.integration.test_client_group import NoPipeline
from tests.integration.watching import eventually
from tests.rig.kafka import MakeTopics
from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics
from worker import kafka_network
from worker.embedded.process import free_ports
from worker.ingest.kafka import Consumer
from worker.settings import KafkaSettings

SHORT_S = 0.5


@pytest.fixture(autouse=True)
def mended() -> None:
    kafka_network.mend_network()


@pytest.fixture
def made(topics: MakeTopics, own_broker: KafkaServer) -> Topics:
    return topics(partitions=2, broker=own_broker)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_tls_handshake_that_nobody_answers_ends(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_network, "HANDSHAKE_S", SHORT_S)
    began = time.monotonic()
    with pytest.raises(kafka.errors.KafkaError):
        KafkaProducer(bootstrap_servers=silent, security_protocol="SSL", bootstrap_timeout_ms=int(2000 * SHORT_S))
    assert time.monotonic() - began < 20 * SHORT_S


def test_what_fails_while_a_connection_is_made_is_an_error_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reset(*_: Any) -> Any:
        raise ConnectionResetError("in the middle of wrap_socket")

    monkeypatch.setattr(kafka_network, "_connect", reset)
    with pytest.raises(kafka.errors.KafkaConnectionError, match="wrap_socket"):
        KafkaConnectionManager._build_transport(None, None).send(None)


def test_metadata_is_refreshed_again_after_an_error_that_the_client_did_not_expect(made: Topics) -> None:
    with closing(KafkaConsumer(bootstrap_servers=made.bootstrap_servers)) as client:
        cluster = client._manager.cluster
        refresh, failed = cluster._do_refresh_metadata, []

        async def fails_once(node_id: Any = None) -> None:
            cluster._do_refresh_metadata = refresh
            failed.append(node_id)
            raise ConnectionResetError("once")

        cluster._do_refresh_metadata = fails_once
        cluster.request_update()
        eventually(lambda: len(failed) == 1, "the refresh that fails")
        before = cluster._last_successful_refresh_ms
        cluster.request_update()
        eventually(lambda: cluster._last_successful_refresh_ms > before, "a refresh after it")


def test_brokers_that_have_all_moved_are_found_again_by_the_bootstrap_servers(made: Topics) -> None:
    def moved(client: Any) -> Any:
        """As if all brokers had another address now than when they were last asked; what says where the client sees one."""
        manager = client._manager
        (broker,) = manager.cluster.brokers()
        there = broker.port
        gone = copy.copy(broker)
        gone.port = free_ports(1)[0]
        manager.cluster._brokers = {broker.node_id: gone}
        for connection in list(manager._conns.values()):
            manager.call_soon(connection.close)
        manager.cluster.request_update()
        return lambda: [each.port for each in manager.cluster.brokers()] == [there]

    with closing(KafkaConsumer(bootstrap_servers=made.bootstrap_servers)) as client:
        back = moved(client)
        time.sleep(4)
        assert not back()
    settings = KafkaSettings(bootstrap_servers=made.bootstrap_servers, group_id=made.group)
    with closing(Consumer(settings, made.frames, NoPipeline(), 2**20)) as consumer:
        eventually(moved(consumer.client), "the broker's true address")
