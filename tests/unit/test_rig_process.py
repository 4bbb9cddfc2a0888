from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from worker.embedded.process import ServerProcess, free_port
from worker.errors import DependencyError

LIVENESS_S = 30.0


def until(condition: str, child: ServerProcess) -> None:
    deadline = time.monotonic() + LIVENESS_S
    while condition not in child.tail():
        assert time.monotonic() < deadline, child.tail()
        time.sleep(0.02)


def test_a_server_that_ends_at_once_is_told_with_its_code_and_the_end_of_its_log(tmp_path: Path) -> None:
    child = ServerProcess(["sh", "-c", "echo no licence found; exit 3"], tmp_path / "log")
    with pytest.raises(DependencyError, match=r"(?s)sh ended with code 3.*no licence found"):
        child.wait_port(free_port(), LIVENESS_S)


def test_a_server_that_never_listens_is_given_up_and_left_running(tmp_path: Path) -> None:
    with ServerProcess(["sleep", "60"], tmp_path / "log") as child:
        with pytest.raises(DependencyError, match=r"did not listen on 127\.0\.0\.1:\d+ within 0\.1 s"):
            child.wait_port(free_port(), 0.1)
        assert child.exit_code is None
    assert child.exit_code == -signal.SIGTERM


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="no-such-server can't be started"):
        ServerProcess(["no-such-server"], tmp_path / "log")


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[ServerProcess] = []
    thread = threading.Thread(target=lambda: started.append(ServerProcess(["sleep", "60"], tmp_path / "log")))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with started[0] as child:
        assert child.exit_code is None


def test_a_server_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = ServerProcess(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"], tmp_path / "log")
    until("ready", child)
    assert child.stop(grace_s=0.2) == -signal.SIGKILL


def test_a_stopped_process_still_acts_on_sigterm(tmp_path: Path) -> None:
    child = ServerProcess(
        ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"], tmp_path / "log"
    )
    until("ready", child)
    child.send_signal(signal.SIGSTOP)
    assert child.stop(grace_s=LIVENESS_S) == 7


def test_children_that_outlive_the_server_are_killed_with_its_group(tmp_path: Path) -> None:
    child = ServerProcess(["sh", "-c", "sleep 60 & echo child $!; exit 0"], tmp_path / "log")
    until("child", child)
    orphan = psutil.Process(int(child.tail().split()[1]))
    child.stop()
    deadline = time.monotonic() + LIVENESS_S
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlived its group"
        time.sleep(0.02)


def test_the_tail_is_the_last_lines_only(tmp_path: Path) -> None:
    child = ServerProcess(["seq", "100000"], tmp_path / "log")
    child.wait(LIVENESS_S)
    assert child.tail(3) == "99998\n99999\n100000"


def test_the_environment_is_replaced_when_given(tmp_path: Path) -> None:
    child = ServerProcess(["env"], tmp_path / "log", {"PATH": os.environ["PATH"], "ONLY": "this"})
    child.wait(LIVENESS_S)
    assert "ONLY=this" in child.tail()
    assert "HOME=" not in child.tail()
