"""A real Triton server on this machine's CPU, for the demo, the tests and the benchmarks.

PyPI's nvidia-pytriton carries the server's binary; it runs in an environment of its own, on loopback only, and serves
a repository that `triton_models.build` made. Not for production: this version has known remote vulnerabilities.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import platform
import shutil
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from triton_models.build.folders import made_once
from triton_models.build.packages import LOCKS
from worker.embedded.environment import Say, data_dir, ensure_environment, say_nothing
from worker.embedded.process import ServerProcess, free_ports
from worker.errors import DependencyError

LOCK = LOCKS / "requirements-triton.lock"
_HOST = "127.0.0.1"
_PYTHONS = ((3, 11), (3, 12))  # the wheel's stubs that still have a numpy below 2
_GLIBC = (2, 35)  # of the wheel's tag, manylinux_2_35
_READY_S = 60.0  # seen 2 to 5 s on two idle cores; CI's are busy
_POLL_S = 0.05
_EXIT_TIMEOUT_S = 5  # Triton's own bound on requests in flight at SIGTERM
_STOP_S = _EXIT_TIMEOUT_S + 5.0
_STARTS = 3  # a port found free may be taken by another process before Triton binds it
_KEPT_LOGS = 20  # of some 10 kB each
_REGION = "/dev/shm/triton_python_backend_shm_region_"  # noqa: S108  Triton's own names, not a temporary file of ours


def unsupported_reason() -> str | None:
    """Why the embedded Triton can't run on this machine, as half a sentence; None where it can."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"its wheel is for Linux on x86-64, this is {system} on {machine}"
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < _GLIBC:
        return f"its wheel needs glibc 2.35 or later, this machine has {libc or 'another libc'} {version}"
    if sys.version_info[:2] not in _PYTHONS:
        return f"its wheel runs models with Python 3.11 or 3.12, this is {sys.version_info[0]}.{sys.version_info[1]}"
    if _libpython_folder() is None:
        return f"it needs libpython{sys.version_info[0]}.{sys.version_info[1]}.so, which this machine lacks"
    return None


def _libpython_folder() -> str | None:
    """Where this Python's shared library is, '' where only the system's loader knows; None if there is none."""
    folder, name = sysconfig.get_config_var("LIBDIR"), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if Path(folder, f"lib{name}.so.1.0").exists():
        return str(folder)
    return "" if ctypes.util.find_library(name) else None


class TritonServer:
    """A running server; `start` makes one, leaving the `with` block ends it. URLs are as tritonclient wants them."""

    def __init__(self, process: ServerProcess, grpc_port: int, http_port: int, metrics_port: int) -> None:
        self.process = process
        self.grpc_url = f"{_HOST}:{grpc_port}"
        self.http_url = f"{_HOST}:{http_port}"
        self.metrics_url = f"http://{_HOST}:{metrics_port}/metrics"
        self._note = process.log_path.with_suffix(".regions")
        self._regions: set[str] = set()

    @classmethod
    def start(
        cls,
        repository: Path,
        models: Sequence[str] = (),
        data: Path | None = None,
        say: Say = say_nothing,
        arguments: Sequence[str] = (),
    ) -> TritonServer:
        """Start on free loopback ports and return when every model is ready.

        `models` names the ones to load, none for all; `arguments` are more of the server's own. `say` gets a sentence
        before anything that takes long. Raises
        DependencyError: not supported here, can't be installed, or ended before it was ready (with its log's end).
        """
        if reason := unsupported_reason():
            raise DependencyError(f"the embedded Triton can't run here: {reason}")
        data = data or data_dir()
        python = ensure_environment("triton", LOCK, data, say)
        say("starting Triton")
        for attempt in range(1, _STARTS + 1):
            server = cls._launch(python, repository, models, data, arguments)
            try:
                server._wait_ready(time.monotonic() + _READY_S)
            except DependencyError:
                clash = "already in use" in server.process.tail()
                server.stop()
                if not clash or attempt == _STARTS:
                    raise
            except BaseException:
                server.stop()
                raise
            else:
                return server
        raise AssertionError("unreachable: the last attempt returns or raises")

    @classmethod
    def _launch(
        cls, python: Path, repository: Path, models: Sequence[str], data: Path, arguments: Sequence[str]
    ) -> TritonServer:
        site = python.parents[1] / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        backends = _backend_folder(python.parents[1], site)
        _tidy(data / "logs")
        grpc_port, http_port, metrics_port = free_ports(3)
        argv = [
            str(site / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--grpc-address={_HOST}",
            f"--grpc-port={grpc_port}",
            f"--http-address={_HOST}",
            f"--http-port={http_port}",
            f"--metrics-address={_HOST}",
            f"--metrics-port={metrics_port}",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
            *arguments,
        ]
        if models:
            argv += ["--model-control-mode=explicit", *(f"--load-model={name}" for name in models)]
        log = data / "logs" / f"triton-{os.getpid()}-{grpc_port}.log"
        return cls(ServerProcess(argv, log, _server_env(python, site)), grpc_port, http_port, metrics_port)

    @property
    def pid(self) -> int:
        """Process id of the server; its models' processes are children of it, in the same group."""
        return self.process.pid

    def _wait_ready(self, deadline: float) -> None:
        url = f"http://{self.http_url}/v2/health/ready"
        while True:
            self.process.check_alive()
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0):
                self._note_regions()
                return
            self._note_regions()  # a server that fails to start leaves its models' memory too
            if time.monotonic() > deadline:
                raise DependencyError(
                    f"Triton was not ready within {_READY_S:g} s; its log is {self.process.log_path} and ends with:\n"
                    f"{self.process.tail()}"
                )
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the server and its models' processes, and remove the shared memory that they left. May be repeated."""
        if self.process.exit_code is None:
            self._note_regions()  # models may have been loaded since the start
        self.process.stop(_STOP_S)
        _remove_regions(self._note)

    def _note_regions(self) -> None:
        """Write down what the server maps, or mapped: if it is killed, or a model's process is, the regions stay, and
        only this note knows them.
        """
        mapped = _mapped_regions(self.pid)
        if not mapped <= self._regions:
            self._regions |= mapped
            identity = f"{self.pid} {_started(self.pid)}"
            self._note.write_text("\n".join([identity, *sorted(self._regions)]) + "\n", encoding="utf-8")

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _server_env(python: Path, site: Path) -> dict[str, str]:
    """The stubs find Python by PATH and its library by LD_LIBRARY_PATH: without LIBDIR the system's libpython, of
    another patch version, would be loaded.
    """
    libraries = [str(site / "nvidia_pytriton.libs"), _libpython_folder()]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LD_"))}
    return kept | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": os.pathsep.join(path for path in libraries if path),
    }


def _backend_folder(environment: Path, site: Path) -> Path:
    """A backend directory as the server wants it: the wheel keeps the backend and its stubs apart."""
    carried = site / "pytriton" / "tritonserver"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def make(folder: Path) -> None:
        target = folder / "python"
        target.mkdir()
        for pattern in ("*.so", "*.py"):
            for path in (carried / "backends" / "python").glob(pattern):
                shutil.copy2(path, target)
        shutil.copy2(carried / "python_backend_stubs" / version / "triton_python_backend_stub", target)

    return made_once(environment / "triton-backends", make)


def _started(pid: int) -> str:
    """A process's start time in clock ticks since boot: with it a reused pid is told from the old one. '' if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _mapped_regions(pid: int) -> set[str]:
    """Paths of the python backend's shared memory that a process maps."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return {line.split()[5] for line in lines if _REGION in line}


def _tidy(logs: Path) -> None:
    """Remove what servers left that were killed, and all but the newest logs."""
    for note in logs.glob("triton-*.regions"):
        _remove_regions(note)
    found = sorted(logs.glob("triton-*.log"), key=lambda log: log.stat().st_mtime)
    for log in found[:-_KEPT_LOGS]:
        log.unlink(missing_ok=True)


def _remove_regions(note: Path) -> None:
    """Remove, by exact name, the regions of a server that is gone; leave those of one that still runs."""
    try:
        identity, *regions = note.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ValueError):
        return
    pid, _, started = identity.partition(" ")
    if started and _started(int(pid)) == started:
        return
    for region in regions:
        Path(region).unlink(missing_ok=True)
    note.unlink(missing_ok=True)
