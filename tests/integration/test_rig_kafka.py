"""Where the tests' Kafka comes from, and what happens where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.kafka import Broker
from tests.rig.kafka_nodes import _java_release

ROOT = Path(__file__).parents[2]
NEEDS_KAFKA = "tests/integration/test_brokers.py::test_the_topics_of_a_test_are_gone_after_it"


def run_pytest(tmp_path: Path, **env: str) -> str:
    """Output of a session of one test that needs Kafka, on a machine with neither Docker nor Java."""
    bare = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "HEADRACE_DATA_DIR": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/none",
        **env,
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore", NEEDS_KAFKA]
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=120).stdout


def test_without_a_kafka_a_test_is_skipped_with_every_reason(tmp_path: Path) -> None:
    output = run_pytest(tmp_path)
    assert "1 skipped" in output
    assert "no real Apache Kafka can be started here. Docker: " in output
    assert "Java: not found; install Java 17 or later and Maven." in output


def test_without_a_kafka_a_test_fails_in_ci_and_the_count_says_that_none_ran(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, CI="true")
    assert "1 error" in output
    assert "no real Apache Kafka can be started here" in output
    assert "against the real Kafka: 0 tests" in output


def test_a_broker_of_the_environment_serves_where_none_can_be_started(kafka: Broker, tmp_path: Path) -> None:
    output = run_pytest(tmp_path, HEADRACE_TEST_BOOTSTRAP=kafka.bootstrap_servers)
    assert "1 passed" in output
    assert "against the real Kafka: 1 tests" in output


@pytest.mark.parametrize("text", ["17.0.15+6", "21"])
def test_the_version_of_java_is_read_from_what_it_says(tmp_path: Path, text: str) -> None:
    java = tmp_path / "java"
    java.write_text(f'#!/bin/sh\necho "OpenJDK Runtime Environment (build {text})" >&2\n')
    java.chmod(0o755)
    assert _java_release(str(java)) == (text, int(text[:2]))
