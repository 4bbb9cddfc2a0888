"""Logs: one line an event, extra fields in both formats, libraries only from WARNING on."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from worker.observe import logs


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, threading.excepthook
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_lines_carry_extra_fields_which_cannot_overwrite_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("worker.x").info("batch %d", 7, extra={"frames": 16, "level": "fake", "where": {1}})
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert (line["message"], line["level"], line["logger"]) == ("batch 7", "info", "worker.x")
    assert (line["frames"], line["where"]) == (16, [1])
    assert line["time"].endswith("Z")


def test_text_lines_show_extra_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("worker.ingest.kafka").warning("lost offsets", extra={"partition": 3})
    assert capsys.readouterr().err.endswith("WARNING ingest.kafka: lost offsets partition=3\n")


@pytest.mark.parametrize("level", ["debug", "info"])
def test_the_kafka_client_is_heard_only_from_warning_on(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level, "text")
    logging.getLogger("kafka.conn").info("connecting")
    logging.getLogger("kafka.conn").warning("gone")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_thread_that_dies_is_logged_in_the_chosen_format(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    thread = threading.Thread(target=lambda: [][0], name="decode-1")
    thread.start()
    thread.join()
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "critical"
    assert line["message"].startswith("decode-1 ended")
    assert "IndexError" in line["error"]
