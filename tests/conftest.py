"""Registers the rigs' fixtures, marks the tests that use a real server and tells at the end how many did, shortens long logs."""

from __future__ import annotations

from collections.abc import Generator

import hypothesis
import pytest

# A busy machine is no failure: no test asserts a time.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

pytest_plugins = ["tests.rig.kafka", "tests.rig.triton"]

_FIRST_LINES, _LAST_LINES = 40, 80
# Marker -> the fixtures that stand for the real server.
_SERVERS = {"kafka": {"kafka", "start_kafka", "topics"}, "triton": {"triton"}}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Counter())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            for server, fixtures in _SERVERS.items():
                if fixtures & set(item.fixturenames):
                    item.add_marker(server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.sections = [(title, _shortened(text)) for title, text in report.sections]
    return report


def _shortened(text: str) -> str:
    """What a failed test shows beside the failure: the log of a worker without its broker would hide all else."""
    lines = text.splitlines()
    if len(lines) <= _FIRST_LINES + _LAST_LINES:
        return text
    left_out = f"[… {len(lines) - _FIRST_LINES - _LAST_LINES} lines left out …]"
    return "\n".join([*lines[:_FIRST_LINES], left_out, *lines[-_LAST_LINES:]])


class _Counter:
    """Hears every test's report, of other processes (pytest-xdist) too."""

    def __init__(self) -> None:
        self.ran = dict.fromkeys(_SERVERS, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for server in self.ran:
                self.ran[server] += server in report.keywords

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        ran = self.ran
        terminalreporter.write_line(
            f"against the real Kafka: {ran['kafka']} tests; the real Triton: {ran['triton']} tests"
        )
