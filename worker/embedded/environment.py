"""Python environments of the embedded servers, made on demand from hash-locked lists.

A lock file of `triton_models/` -> a virtual environment in the data folder, named after the lock and the Python that
runs it. Errors come out as `DependencyError`, so that a caller can fall back or end with the remedy.
"""

from __future__ import annotations

import platform
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from triton_models.build.folders import BuildError, data_dir, made_once, name_for
from triton_models.build.packages import pip_install
from worker.errors import DependencyError

__all__ = ["Say", "data_dir", "ensure_environment", "say_nothing"]

Say = Callable[[str], None]


def say_nothing(_message: str) -> None:
    """The default of `say`."""


def ensure_environment(name: str, lock: Path, data: Path | None = None, say: Say = say_nothing) -> Path:
    """Path of the Python of an environment that holds exactly the packages of `lock`; made on the first call.

    `say` gets a sentence before anything that takes long. Safe to call from several processes at once. Raises
    DependencyError with the end of pip's output.
    """
    python_id = f"{sys.implementation.cache_tag}-{platform.machine()}-{sys.base_prefix}"
    folder = (data or data_dir()) / "environments" / f"{name}-{name_for([lock.read_bytes(), python_id.encode()])}"

    def make(target: Path) -> None:
        say(f"setting up the environment for {name} (once, in {target})")
        venv.create(target, with_pip=False, symlinks=True)  # this Python's pip serves it: 5 s less than ensurepip
        pip_install(["-r", str(lock)], f"the environment for {name}", _python_of(target))

    try:
        return _python_of(made_once(folder, make))
    except (BuildError, OSError) as error:
        raise DependencyError(f"the environment for {name} can't be made: {error}") from error


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"
