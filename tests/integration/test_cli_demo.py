"""The demo itself: embedded broker, Triton and worker, real pictures, counted from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil

DEMO = [sys.executable, "-m", "worker.cli", "demo", "--frames", "60", "--json"]
LIMIT_S = 280.0  # the servers' environments may have to be made first


def test_the_demo_brings_every_frame_out_once_and_in_order() -> None:
    # Settings meant for somebody's own broker must not lead the demo there.
    environment = {**os.environ, "HEADRACE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    demo = subprocess.run(DEMO, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)
    assert demo.returncode == 0, demo.stderr
    told = json.loads(demo.stdout.splitlines()[-1])
    assert told["frames_in"] == 60
    assert told["predictions"] == 58
    assert told["dead_letters"] == 2
    assert told["dead_letters_by_reason"] == {"truncated": 1, "not_an_image": 1}
    assert (told["lost"], told["duplicates"], told["out_of_order"]) == (0, 0, 0)
    assert told["frames_per_second"] > 0
    assert told["latency_ms"]["p99"] >= told["latency_ms"]["p50"] > 0
    assert (told["model"], told["broker"]) == ("efficientnet_lite2", "tansu")


def test_ctrl_c_leaves_no_server_behind() -> None:
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    children: dict[psutil.Process, str] = {}
    deadline = time.monotonic() + LIMIT_S
    while not any("worker.cli run" in command for command in children.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
        children = _children(demo.pid)
    assert any("tansu" in command for command in children.values())
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert [command for child, command in children.items() if child.is_running()] == []


def _children(pid: int) -> dict[psutil.Process, str]:
    found = {}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            found[child] = " ".join(child.cmdline())
    return found
