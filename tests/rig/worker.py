"""A worker in a process of its own, as an operator runs it: `headrace run` with a settings file, signals, its admin port.

Tests give the settings as nested dicts and look at the worker only from outside: exit code, log, health, metrics,
resident memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from worker.embedded.process import ServerProcess, free_port
from worker.errors import DependencyError

_POLL_S = 0.05
_SAMPLE_S = 0.1  # the kernel keeps the peak; this bounds what is missed of the time before the end
_REQUEST_S = 5.0
_STOP_S = 60.0  # the longest drain a test sets, several times over


class WorkerProcess:
    """Starts at once. `config` is the tree of settings or a TOML file; `env` is added to this process's environment.

    The admin port is chosen here, over whatever `config` says. Leaving the context kills what still runs.
    """

    def __init__(self, config: Mapping[str, Any] | Path, env: Mapping[str, str] | None = None) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="headrace-worker-"))
        if isinstance(config, Path):
            file = config
        else:
            file = self._directory / "headrace.toml"
            file.write_text(to_toml(config), encoding="utf-8")
        self.admin_port = free_port()
        environment = {**os.environ, **(env or {}), "HEADRACE_ADMIN__PORT": str(self.admin_port)}
        command = [sys.executable, "-m", "worker.cli", "run", "-c", str(file)]
        self._peak_kib = 0
        self._server = ServerProcess(command, self._directory / "worker.log", environment)
        self._sampler = threading.Thread(target=self._sample, name="rss-sampler", daemon=True)
        self._sampler.start()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # pytest shows it beside the failure
            print(f"--- log of worker {self.pid} ---\n{self.log}")
        self.kill9()
        self._sampler.join()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def exit_code(self) -> int | None:
        return self._server.exit_code

    @property
    def log(self) -> str:
        """All it wrote so far, standard output and error."""
        return self._server.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def peak_rss_mib(self) -> float:
        """Highest resident memory so far, shared memory included; after the end, that of at most 0.1 s before it."""
        return self._peak_kib / 1024

    def check_alive(self) -> None:
        """Raises DependencyError with the end of the log if it has ended: for `wait_until_done(check=…)`."""
        self._server.check_alive()

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Return when /health/ready says so. Raises DependencyError, with the reasons and the log, if it does not."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.check_alive()
            try:
                self._get("/health/ready")
            except OSError as error:
                unready = error.read().decode() if isinstance(error, urllib.error.HTTPError) else str(error)
            else:
                return
            if time.monotonic() > deadline:
                raise DependencyError(
                    f"not ready within {timeout_s:g} s: {unready}; its log ends:\n{self._server.tail()}"
                )
            time.sleep(_POLL_S)

    def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels, as Prometheus writes them: `name` or `name{a="1",b="2"}`."""
        samples = {}
        for family in text_string_to_metric_families(self._get("/metrics")):
            for sample in family.samples:
                labels = ",".join(f'{label}="{value}"' for label, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return samples

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name that carry these labels; `headrace_` may be left out."""
        wanted = name if name.startswith("headrace_") else f"headrace_{name}"
        parts = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            value
            for sample, value in self.metrics().items()
            if sample.partition("{")[0] == wanted and all(part in sample for part in parts)
        ]
        if not found:
            raise KeyError(f"no sample {wanted} with {labels}")
        return sum(found)

    def sigterm(self) -> None:
        self._server.send_signal(signal.SIGTERM)

    def kill9(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._server.stop(grace_s=0)

    def pause(self) -> None:
        """SIGSTOP: a worker that hangs."""
        self._server.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def wait(self, timeout_s: float = _STOP_S) -> int:
        """Exit code. Raises DependencyError with the end of the log if it still runs after `timeout_s`."""
        code = self._server.wait(timeout_s)
        if code is None:
            raise DependencyError(f"the worker still runs after {timeout_s:g} s; its log ends:\n{self._server.tail()}")
        return code

    def stop(self, timeout_s: float = _STOP_S) -> int:
        """SIGTERM, then its exit code."""
        self.sigterm()
        return self.wait(timeout_s)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=_REQUEST_S) as response:
            return str(response.read().decode())

    def _sample(self) -> None:
        status = Path(f"/proc/{self.pid}/status")
        while self._server.exit_code is None:
            with contextlib.suppress(OSError):
                for line in status.read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self._peak_kib = max(self._peak_kib, int(line.split()[1]))
            time.sleep(_SAMPLE_S)


def to_toml(tree: Mapping[str, Any], prefix: str = "") -> str:
    """A nested dict of strings, numbers, booleans and lists of them as a TOML document."""
    sections = {key: value for key, value in tree.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in tree.items() if key not in sections]
    if prefix and lines:
        lines.insert(0, f"[{prefix}]")
    text = "".join(f"{line}\n" for line in lines)
    return text + "".join(to_toml(value, f"{prefix}.{key}" if prefix else key) for key, value in sections.items())


def _toml_value(value: object) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's too, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
