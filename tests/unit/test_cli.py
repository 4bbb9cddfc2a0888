"""The command line's promises: exit codes, stdout for data, one JSON object on the last line, errors as sentences."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from worker.cli import app, main
from worker.cli.options import flags
from worker.cli.run import require_crc32c
from worker.errors import ConfigurationError, DependencyError, FramesLost
from worker.settings import FallbackSettings, InferSettings, Settings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands send all logging to the stderr of their time, which a test's capture closes."""
    root, hook = logging.getLogger(), threading.excepthook
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], threading.excepthook = handlers, hook
    root.setLevel(level)
    logging.captureWarnings(False)


def test_config_show_names_the_origin_of_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text('[kafka]\nbootstrap_servers = "file:9092"\ngroup_id = "from-file"\n')
    monkeypatch.setenv("HEADRACE_KAFKA__GROUP_ID", "from-environment")
    sets = ["--set", "batching.linger_ms=5", "--set", "ingest.formats=jpeg, png"]
    assert main(["config", "show", "-c", str(file), *sets, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["settings"]["kafka.bootstrap_servers"] == "file:9092"
    assert shown["settings"]["kafka.group_id"] == "from-environment"
    assert shown["settings"]["batching.linger_ms"] == 5
    assert shown["settings"]["ingest.formats"] == ["jpeg", "png"]
    assert shown["origins"]["kafka.bootstrap_servers"] == str(file)
    assert shown["origins"]["kafka.group_id"] == "HEADRACE_KAFKA__GROUP_ID"
    assert shown["origins"]["batching.linger_ms"] == "flag"
    assert shown["origins"]["topics.frames"] == "default"


def test_config_show_for_people_is_toml_with_origins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--set", "topics.frames=cams"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("topics.frames"))
    assert line.split("  # ")[0].strip() == 'topics.frames = "cams"'
    assert line.endswith("# flag")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "kafka.bootstrp_servers=x"], "did you mean kafka.bootstrap_servers?"),
        (["--set", "batching.linger_ms=soon"], "batching.linger_ms"),
        (["--set", "batching.linger_ms"], "--set batching.linger_ms: not SECTION.KEY=VALUE"),
        (["-c", "missing.toml"], "can't read settings file missing.toml"),
    ],
)
def test_a_wrong_setting_ends_with_2_and_a_sentence_on_stderr(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["config", "check", "--nope"], ["no-such-command"], ["produce"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_a_failure_with_json_is_an_object_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", "--set", "a.b=1", "--json"]) == 2
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["exit_code"] == 2
    assert "unknown setting a.b" in last["error"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("wrong"), 2),
        (DependencyError("away"), 3),
        (FramesLost("lost"), 4),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("ours"), 1),
    ],
)
def test_every_error_of_a_command_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("worker.cli.configuration.load", fail)
    assert main(["config", "check"]) == code
    err = capsys.readouterr().err
    assert ("Traceback" in err) == (code == 1)


def test_the_schema_of_settings_accepts_a_settings_file_and_refuses_unknown_keys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "schema", "--json"]) == 0
    schema = json.loads(capsys.readouterr().out.splitlines()[-1])
    jsonschema.validate({"kafka": {"group_id": "x"}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"kafka": {"groop_id": "x"}}, schema)


@pytest.mark.parametrize("name", ["prediction", "statistics"])
def test_the_schemas_of_records_are_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", name]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_an_unknown_schema_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema", "frames"]) == 2
    assert "settings, prediction, statistics" in capsys.readouterr().err


def test_the_last_of_a_repeated_flag_wins_and_values_may_contain_equal_signs() -> None:
    assert flags(["topics.frames=a", "topics.frames=b=c"]) == {"topics.frames": "b=c"}


def test_run_refuses_to_start_without_crc32c_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_crc32c()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="pip install crc32c"):
        require_crc32c()


def test_metrics_know_the_endpoint_before_the_first_request() -> None:
    assert Settings(infer=InferSettings(url="gpu:8001, other:8001")).endpoints == ("gpu:8001", "other:8001")
    fallback = FallbackSettings(directory="lite0")
    assert Settings(infer=InferSettings(backend="local"), fallback=fallback).endpoints == ("local", "fallback/local")


_WAITING = """
import sys, threading, time
from worker.cli.signals import stop_on_signals
from worker.observe import logs
logs.configure("info")
stop = threading.Event()
stop_on_signals(stop)
print("ready", flush=True)
stop.wait()
print("stopping", flush=True)
if sys.argv[1] == "stuck":
    time.sleep(600)
"""


def _waiting(mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_drain(number: signal.Signals) -> None:
    with _waiting("drains") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "stopping\n")
    assert number.name in err


def test_a_second_signal_ends_a_worker_that_is_stuck() -> None:
    with _waiting("stuck") as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "second time" in err


def test_the_module_can_be_run_like_the_console_script() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "worker.cli", "config", "check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0
    assert process.stdout.startswith("ok: ")


def test_help_names_every_command_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    registered = {command.callback.__name__ for command in app.app.registered_commands if command.callback}
    assert all(name in shown for name in registered | {"config"})
