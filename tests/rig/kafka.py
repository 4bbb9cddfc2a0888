"""Fixtures for tests against a real Apache Kafka 4.

`kafka` is the broker of the session: HEADRACE_TEST_BOOTSTRAP if set, else one started with Docker or Java. `topics`
makes a fresh set of the worker's topics on it. Tests that pause, kill or cut a broker start their own with
`start_kafka`. Where no Kafka can be had, tests fail in CI and are skipped with the reason elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NoReturn, Protocol

import pytest

from tests.rig.kafka_server import KafkaServer
from tests.rig.topics import Topics, create_topics, delete_topics
from worker.errors import DependencyError

BOOTSTRAP_VARIABLE = "HEADRACE_TEST_BOOTSTRAP"


class Broker(Protocol):
    @property
    def bootstrap_servers(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ExternalKafka:
    """A broker that someone else started and will stop."""

    bootstrap_servers: str


class StartKafka(Protocol):
    def __call__(
        self, nodes: int = 1, overrides: Mapping[str, str] | None = None, proxied: bool = False
    ) -> KafkaServer: ...


class MakeTopics(Protocol):
    def __call__(
        self,
        partitions: int = 4,
        configs: Mapping[str, str] | None = None,
        broker: Broker | None = None,
        output_partitions: int | None = None,
    ) -> Topics: ...


def unavailable(error: DependencyError) -> NoReturn:
    """End the test: in CI a missing server is a failure, elsewhere a skip with its reason."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """The session's broker. Leave it as it was: pausing or killing is for brokers of `start_kafka`."""
    if address := os.environ.get(BOOTSTRAP_VARIABLE):
        yield ExternalKafka(address)
        return
    try:
        server = KafkaServer.start()
    except DependencyError as error:
        unavailable(error)
    with server:
        yield server


@pytest.fixture(scope="module")
def own_broker() -> Iterator[KafkaServer]:
    """One of the module's own: it may be paused, and ends transactions soon after their timeout. Reached also by proxies."""
    try:
        server = KafkaServer.start(
            overrides={"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200"}, proxied=True
        )
    except DependencyError as error:
        unavailable(error)
    with server:
        yield server


@pytest.fixture
def start_kafka() -> Iterator[StartKafka]:
    """Starts brokers (see `KafkaServer.start`) that belong to this test and are stopped after it."""
    with ExitStack() as stack:

        def start(nodes: int = 1, overrides: Mapping[str, str] | None = None, proxied: bool = False) -> KafkaServer:
            try:
                return stack.enter_context(KafkaServer.start(nodes, overrides, proxied))
            except DependencyError as error:
                unavailable(error)

        yield start


@pytest.fixture
def topics(request: pytest.FixtureRequest) -> Iterator[MakeTopics]:
    """Makes sets of topics, on the session's broker unless another is given, and deletes them after the test.

    `configs` are topic settings of the frames topic; `output_partitions` those of the three others (as many as frames
    has, unless given).
    """
    with ExitStack() as stack:

        def make(
            partitions: int = 4,
            configs: Mapping[str, str] | None = None,
            broker: Broker | None = None,
            output_partitions: int | None = None,
        ) -> Topics:
            owned = broker is not None  # a broker of the test's own goes away with its topics
            chosen: Broker = broker if broker is not None else request.getfixturevalue("kafka")
            made = create_topics(chosen.bootstrap_servers, partitions, configs, output_partitions)
            if not owned:
                stack.callback(delete_topics, made)
            return made

        yield make
