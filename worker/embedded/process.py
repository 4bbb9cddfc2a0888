"""Child servers of the demo and of the tests: started, waited for, and certain to be gone afterwards.

A `ServerProcess` runs in a session of its own, writes to one log file and is killed by the kernel when this process
dies, however it dies. Whoever starts one gives an argument list and gets either a reachable port or a
`DependencyError` that carries the end of the log.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from worker.errors import DependencyError

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_POLL_S = 0.02  # a connection attempt on loopback costs microseconds; servers take 0.1 to 5 s
_CONNECT_S = 1.0
_TAIL_BYTES = 16_384  # enough for a Java stack trace, and no more than a terminal takes
_KILL_S = 10.0  # how long the kernel may need to take back a killed server's memory

# Loaded before any fork: the child of a threaded process must not import or open anything.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago. Another process may still take it first: start again on a clash."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many different ones: asked for one after the other, the same port may come twice."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class ServerProcess:
    """One child process in its own session, with its standard output and error appended to `log_path`.

    `env` replaces the whole environment when given. Raises DependencyError when the program can't be started.
    """

    def __init__(self, argv: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = [str(part) for part in argv]
        self.log_path = log_path
        self.name = Path(self.argv[0]).name
        log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._popen = _spawn(self.argv, log_path, env)
        except OSError as error:
            message = f"{self.argv[0]} can't be started: {error.strerror}. Is it installed and executable?"
            raise DependencyError(message) from error

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._popen.poll()

    def check_alive(self) -> None:
        """Raises DependencyError with the end of the log if the process has ended."""
        code = self.exit_code
        if code is not None:
            raise DependencyError(f"{self.name} ended with code {code}.{self._where()}")

    def wait_port(self, port: int, timeout_s: float, host: str = "127.0.0.1") -> None:
        """Return once `host:port` accepts connections.

        Raises DependencyError, with the end of the log, if the process ends first or `timeout_s` passes; the process
        is left as it is.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_alive()
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_CONNECT_S):
                return
            if time.monotonic() >= deadline:
                raise DependencyError(
                    f"{self.name} did not listen on {host}:{port} within {timeout_s:g} s; "
                    f"check that nothing else uses the port and that the machine is not overloaded.{self._where()}"
                )
            time.sleep(_POLL_S)

    def wait(self, timeout_s: float) -> int | None:
        """Exit code, or None if the process still runs after `timeout_s`."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its children; nothing happens if they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def stop(self, grace_s: float = 5.0) -> int | None:
        """SIGTERM to the group, SIGKILL to what is left after `grace_s`, then reap. May be called again.

        Returns the exit code; None only if the kernel could not end the process.
        """
        if self.exit_code is None:
            self.send_signal(signal.SIGTERM)
            self.send_signal(signal.SIGCONT)  # a stopped process acts on SIGTERM only when it runs again
            self.wait(grace_s)
        self.send_signal(signal.SIGKILL)  # children that outlived the server too
        return self.wait(_KILL_S)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _where(self) -> str:
        return f" The whole log is {self.log_path}; it ends with:\n{self.tail()}"


def _spawn(argv: Sequence[str], log_path: Path, env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        assert _LIBC is not None
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    def start() -> subprocess.Popen[bytes]:
        with log_path.open("ab") as log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
                preexec_fn=die_with_parent if _LIBC is not None else None,
            )

    return _SPAWNER.call(start)


class _Spawner:
    """One thread that starts all children and lives as long as the process.

    The kernel sends the death signal when the *thread* that forked ends, so a server started from a short-lived
    thread would be killed with it.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._jobs = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # not alive: this process is itself a fork
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((start, future))
        return future.result()

    def _run(self) -> None:
        while True:
            start, future = self._jobs.get()
            try:
                future.set_result(start())
            except BaseException as error:
                future.set_exception(error)


_SPAWNER = _Spawner()
