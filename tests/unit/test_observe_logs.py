"""Logs: one line an event, extra fields in both formats, libraries only from WARNING on."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

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


def test_what_a_library_says_a_thousand_times_is_written_once_a_second_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("info", "text")
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)

    def abort(why: object) -> None:
        logging.getLogger("kafka.net.transport").error("Abort (%s)", why)

    for number in range(1000):
        abort(number)
        logging.getLogger("kafka.net.connection").error("Connection lost")
        logging.getLogger("worker.publish").error("ours")
    clock += 1.0
    abort("again")
    written = capsys.readouterr().err.splitlines()
    assert sum(line.endswith("ours") for line in written) == 1000
    rest = [line.partition(" ")[2] for line in written if not line.endswith("ours")]
    assert rest == [
        "ERROR kafka.net.transport: Abort (0)",
        "ERROR kafka.net.connection: Connection lost",
        "ERROR kafka.net.transport: Abort (again) left_out=999",
    ]


@pytest.mark.parametrize(
    ("name", "module", "is_shown"),
    [
        ("kafka.future", "kafka.future", False),
        ("kafka.consumer", "worker.ingest.listener", True),
        ("worker.publish", "kafka", True),
    ],
)
def test_an_exception_that_a_library_met_in_itself_is_named_and_ours_is_shown(
    name: str, module: str, is_shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("info", "text")
    called: dict[str, Any] = {"__name__": module}
    exec("def called_back(): int('closed')", called)
    calling = called | {"__name__": "kafka.future", "log": logging.getLogger(name)}
    exec("def library():\n try: called_back()\n except ValueError: log.exception('Error processing')", calling)
    calling["library"]()
    written = capsys.readouterr().err
    assert ("Traceback" in written) == is_shown, written
    assert "ValueError: invalid literal" in written


def test_a_thread_that_dies_is_logged_in_the_chosen_format(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    thread = threading.Thread(target=lambda: [][0], name="decode-1")
    thread.start()
    thread.join()
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "critical"
    assert line["message"].startswith("decode-1 ended")
    assert "IndexError" in line["error"]
