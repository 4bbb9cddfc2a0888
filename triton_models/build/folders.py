"""The data folder, and folders in it that are made once and named after what they were made of.

Everything that is downloaded or generated (weights, served repositories, environments) goes through `made_once`, so
an interrupted or a simultaneous build never leaves something half-made in use.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


class BuildError(Exception):
    """A model, its weights or an environment can't be made here; the message says what to do about it."""


def data_dir() -> Path:
    """Where generated things live: HEADRACE_DATA_DIR, else ~/.cache/headrace. Not created by this call."""
    chosen = os.environ.get("HEADRACE_DATA_DIR")
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache" / "headrace"


def name_for(parts: Iterable[bytes]) -> str:
    """Folder name for something made of `parts`: 16 hex digits, enough to tell builds on one machine apart."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()[:16]


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by `make(folder)` unless a finished one is there. Safe between threads and processes.

    A marker beside the folder says it is finished; without it what is there is taken for a torn build and removed.
    The lock belongs to the process: the kernel frees it if the builder is killed.
    """
    marker = folder.with_name(folder.name + ".done")
    if marker.exists() and folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (marker.exists() and folder.is_dir()):
            marker.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            marker.touch()
    return folder
