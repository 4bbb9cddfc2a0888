"""How a side runs in a process of its own: a JSON specification in, a JSON result file out.

The harness starts `python -m benchmarks.sides.NAME SPEC`; the child converts SPEC to its typed form and writes what it
measured, if anything, to the path the specification names.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from worker.embedded.process import ServerProcess
from worker.errors import DependencyError

S = TypeVar("S", bound=msgspec.Struct)

# Until it has partitions: kafka-python 3.0.12 may forget a join that outlasts the poll which began it, and reads nothing.
JOIN_MS = 5000


def start(
    module: str,
    spec: msgspec.Struct,
    folder: Path,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
) -> ServerProcess:
    """Start a side's process; its output goes to a log in `folder`. `variables` are added to its environment."""
    log = Path(tempfile.mkstemp(prefix=f"{module}-", suffix=".log", dir=folder)[1])
    argv = [python, "-m", f"benchmarks.sides.{module}", msgspec.json.encode(spec).decode()]
    return ServerProcess(argv, log, {**os.environ, **(variables or {})})


def specification(type_: type[S]) -> S:
    """In the child: what it was started with."""
    return msgspec.json.decode(sys.argv[1], type=type_)


def write_result(path: str, result: msgspec.Struct) -> None:
    """In the child, once all is measured: appears whole or not at all."""
    partial = Path(path + ".partial")
    partial.write_bytes(msgspec.json.encode(result))
    partial.rename(path)


def wait_result(process: ServerProcess, path: Path, type_: type[S], timeout_s: float) -> S:
    """In the harness: the child's result. Raises DependencyError if it ends without one or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if process.exit_code not in (None, 0):
            process.check_alive()
        if time.monotonic() > deadline:
            raise DependencyError(f"{' '.join(process.argv[:3])} gave no result in {timeout_s:g} s:\n{process.tail()}")
        time.sleep(0.02)
    return msgspec.json.decode(path.read_bytes(), type=type_)
