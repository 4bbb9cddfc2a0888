"""Registers the rigs' fixtures, marks the tests that use a real server, and tells at the end how many did."""

from __future__ import annotations

import hypothesis
import pytest

# A busy machine is no failure: no test asserts a time.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

pytest_plugins = ["tests.rig.kafka", "tests.rig.triton"]

# Marker -> the fixtures that stand for the real server.
_SERVERS = {"kafka": {"kafka", "start_kafka", "topics"}, "triton": {"triton"}}
_ran = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ran] = dict.fromkeys(_SERVERS, 0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            for server, fixtures in _SERVERS.items():
                if fixtures & set(item.fixturenames):
                    item.add_marker(server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    for server, count in item.config.stash[_ran].items():
        if item.get_closest_marker(server):
            item.config.stash[_ran][server] = count + 1
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ran = config.stash[_ran]
    terminalreporter.write_line(f"against the real Kafka: {ran['kafka']} tests; the real Triton: {ran['triton']} tests")
