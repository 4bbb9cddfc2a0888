"""A real Apache Kafka 4 of one node or several (KRaft), started for a test or a benchmark and gone with it.

`KafkaServer.start()` writes each node's properties, starts the nodes and returns when the cluster answers; after that
nodes can be paused, killed and restarted, and, if `proxied`, their network cut.
"""

from __future__ import annotations

import base64
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.rig.kafka_nodes import Node, Provider, kafka_provider
from tests.rig.kafka_proxy import KafkaProxy
from worker.embedded.process import free_ports
from worker.errors import DependencyError

FRAMES_MAX_BYTES = 16 * 2**20  # the largest frame a test may send
BROKER_MAX_BYTES = FRAMES_MAX_BYTES + 64 * 2**10  # a dead letter is the frame and its reason
_START_S = 90.0  # 2.5 s on an idle machine of two cores; the rest is for busy ones
_POLL_S = 0.05
_CONNECT_S = 1.0
_HEAP_MIB = 512
_HEAP_MIB_OF_SEVERAL = 400
_ATTEMPTS = 3  # another process may take a port between its choice and the broker's start


@dataclass(frozen=True, slots=True)
class _Ports:
    direct: int
    behind_proxy: int
    controller: int
    tls: int
    sasl: int


class KafkaServer:
    """Nodes are numbered from 1, as Kafka's `node.id` is."""

    def __init__(
        self, provider: Provider, nodes: int, overrides: Mapping[str, str], proxied: bool, secured: bool = False
    ) -> None:
        self.provider_name = provider.name
        self.directory = Path(tempfile.mkdtemp(prefix="headrace-kafka-"))
        numbers = range(1, nodes + 1)
        self._ports = {number: _Ports(*free_ports(5)) for number in numbers}
        self._secured = secured
        self.proxies = {number: KafkaProxy(self._ports[number].behind_proxy) for number in numbers if proxied}
        cluster_id = _cluster_id()
        self.nodes: dict[int, Node] = {}
        for number in numbers:
            directory = self.directory / f"node-{number}"
            directory.mkdir()
            node = provider.node(directory, cluster_id, _HEAP_MIB if nodes == 1 else _HEAP_MIB_OF_SEVERAL)
            properties = self._properties(number, node.log_dirs) | dict(overrides)
            text = "".join(f"{key}={value}\n" for key, value in properties.items())
            (directory / "server.properties").write_text(text)
            self.nodes[number] = node

    @classmethod
    def start(
        cls,
        nodes: int = 1,
        overrides: Mapping[str, str] | None = None,
        proxied: bool = False,
        secured: bool = False,
    ) -> KafkaServer:
        """Start a cluster and wait until every node answers.

        `overrides` are lines of server.properties. `secured` adds the listeners TLS and SASL, which need the lines of
        `tests.rig.secured`. Raises DependencyError, with the end of a node's log.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            server = cls(kafka_provider(), nodes, overrides or {}, proxied, secured)
            try:
                with ThreadPoolExecutor(nodes) as pool:
                    list(pool.map(lambda node: node.start(), server.nodes.values()))
                server.wait_ready()
            except BaseException as error:
                server.stop()
                if attempt == _ATTEMPTS or "Address already in use" not in str(error):
                    raise
            else:
                return server
        raise AssertionError("unreachable")

    def __enter__(self) -> KafkaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """`host:port,…` of the nodes' own listeners."""
        return ",".join(f"127.0.0.1:{ports.direct}" for ports in self._ports.values())

    @property
    def tls_bootstrap_servers(self) -> str:
        """The listener that wants TLS, and knows a client by its certificate."""
        return ",".join(f"127.0.0.1:{ports.tls}" for ports in self._ports.values())

    @property
    def sasl_bootstrap_servers(self) -> str:
        """The listener that wants TLS and a login."""
        return ",".join(f"127.0.0.1:{ports.sasl}" for ports in self._ports.values())

    @property
    def proxied_bootstrap_servers(self) -> str:
        """`host:port,…` of the proxies: who comes this way is told the proxies' addresses for everything else too."""
        return ",".join(proxy.address for proxy in self.proxies.values())

    def pause(self, number: int | None = None) -> None:
        """SIGSTOP one node, or all: connections stay open and nothing answers."""
        for node in self._chosen(number):
            node.pause()

    def resume(self, number: int | None = None) -> None:
        for node in self._chosen(number):
            node.resume()

    def kill(self, number: int = 1) -> None:
        """SIGKILL a node and wait until it is gone."""
        self.nodes[number].kill()

    def restart(self, number: int = 1) -> None:
        """Start a node over its data again, killing it first if it runs, and wait until the cluster is whole."""
        self.nodes[number].kill()
        self.nodes[number].start()
        self.wait_ready()

    def stop(self) -> None:
        """End all nodes and proxies and remove their data. May be called again."""
        for proxy in self.proxies.values():
            proxy.close()
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.close(), self.nodes.values()))
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_ready(self) -> None:
        """Return when every node listens and knows all the others. DependencyError when one ends or after 90 s."""
        deadline = time.monotonic() + _START_S
        for number in self.nodes:
            while not self._answers(number):
                for node in self.nodes.values():
                    node.check_alive()
                if time.monotonic() > deadline:
                    log = self.nodes[number].tail()
                    raise DependencyError(
                        f"Kafka's node {number} did not answer within {_START_S:g} s; its log:\n{log}"
                    )
                time.sleep(_POLL_S)

    def _answers(self, number: int) -> bool:
        address = ("127.0.0.1", self._ports[number].direct)
        try:  # asked first: the admin client's own waiting for an unreachable broker takes many seconds
            socket.create_connection(address, timeout=_CONNECT_S).close()
            admin = KafkaAdminClient(bootstrap_servers=["{}:{}".format(*address)])
        except (KafkaError, OSError):
            return False
        try:
            return len(admin.describe_cluster()["brokers"]) == len(self.nodes)
        except (KafkaError, OSError):
            return False
        finally:
            admin.close()

    def _chosen(self, number: int | None) -> list[Node]:
        return list(self.nodes.values()) if number is None else [self.nodes[number]]

    def _properties(self, number: int, log_dirs: str) -> dict[str, str]:
        ports = self._ports[number]
        replicas = str(min(3, len(self._ports)))
        in_sync = "2" if replicas == "3" else "1"
        listeners = {"DIRECT": ports.direct}
        advertised = {"DIRECT": ports.direct}
        if number in self.proxies:
            listeners["PROXIED"] = ports.behind_proxy
            advertised["PROXIED"] = self.proxies[number].port
        if self._secured:
            listeners |= {"TLS": ports.tls, "SASL": ports.sasl}
            advertised |= {"TLS": ports.tls, "SASL": ports.sasl}
        voters = ",".join(f"{voter}@127.0.0.1:{other.controller}" for voter, other in self._ports.items())
        return {
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listeners": _listeners({**listeners, "CONTROLLER": ports.controller}),
            "advertised.listeners": _listeners(advertised),
            "inter.broker.listener.name": "DIRECT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL:SASL_SSL",
            "log.dirs": log_dirs,
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            # A killed broker's successor is let in when its session ends; 9 s is the default.
            "broker.session.timeout.ms": "4000" if replicas == "1" else "6000",
            "broker.heartbeat.interval.ms": "500",
            "message.max.bytes": str(BROKER_MAX_BYTES),
            "replica.fetch.max.bytes": str(BROKER_MAX_BYTES),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "log.retention.ms": "-1",  # a test may use old timestamps: nothing may vanish under it
            "log.segment.delete.delay.ms": "1000",  # give the disk back soon after a topic is deleted
            "log.cleaner.dedupe.buffer.size": str(16 * 2**20),  # 128 MiB of heap otherwise
        }


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def _cluster_id() -> str:
    """A random id as Kafka writes them: 22 characters of URL-safe base64, not starting with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()).startswith("-"):
        pass
    return text
