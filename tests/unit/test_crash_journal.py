"""The crash journal accuses the frame whose thread crashed, three times, and nobody else. Real crashes of real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from worker.pipeline.journal import CRASHES, CrashJournal

GOOD, GUILTY = "frames/0/1", "frames/0/2"

WORKER = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from worker.pipeline.journal import CrashJournal

journal = CrashJournal(Path(sys.argv[1]), "group", 2)
inside = threading.Barrier(3)

def decode(thread, frame_id, act):
    journal.enter(thread, frame_id)
    inside.wait()
    act()

acts = {"crash": lambda: ctypes.string_at(0), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "leave": lambda: None}
threads = [
    threading.Thread(target=decode, args=(0, "frames/0/1", lambda: time.sleep(0 if sys.argv[2] == "leave" else 30)), daemon=True),
    threading.Thread(target=decode, args=(1, "frames/0/2", acts[sys.argv[2]]), daemon=True),
]
for thread in threads:
    thread.start()
inside.wait()
for thread in threads:
    thread.join()
journal.close()
"""


def run(folder: Path, act: str) -> int:
    return subprocess.run([sys.executable, "-c", WORKER, str(folder), act], check=False, timeout=60).returncode


def suspects(folder: Path) -> frozenset[str]:
    journal = CrashJournal(folder, "group", 1)
    journal.close()
    return journal.suspects


def test_a_frame_that_crashed_three_workers_is_suspect_and_its_neighbour_is_not(tmp_path: Path) -> None:
    for _ in range(CRASHES):
        assert suspects(tmp_path) == frozenset()
        assert run(tmp_path, "crash") == -signal.SIGSEGV
    assert suspects(tmp_path) == {GUILTY}


def test_a_killed_worker_accuses_nobody(tmp_path: Path) -> None:
    for _ in range(CRASHES + 1):
        assert run(tmp_path, "kill") == -signal.SIGKILL
    assert suspects(tmp_path) == frozenset()


def test_a_worker_that_ends_in_order_leaves_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "leave") == 0
    assert not list(tmp_path.glob("*.journal"))
    assert not list(tmp_path.glob("*.fatal"))


def test_the_journal_of_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    living = CrashJournal(tmp_path, "group", 1)
    living.enter(0, GOOD)
    suspects(tmp_path)
    assert len(list(tmp_path.glob("*.journal"))) == 1
    living.close()
