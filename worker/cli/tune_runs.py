"""One measured run after another of the real worker: embedded broker, the frames once, fresh outputs and group each time.

An arrangement goes in, frames a second and CPU a frame come out. The model is served by whom the settings name, or by
embedded Tritons, one for each number of instances tried; those not in use wait without work.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import psutil

from worker import config
from worker.cli.broker import Reader, Record, Sender, create_topics
from worker.embedded.broker import EmbeddedBroker
from worker.embedded.process import ServerProcess
from worker.embedded.triton import TritonServer
from worker.errors import DependencyError
from worker.publish.messages import Message
from worker.settings import Settings
from worker.tuning.arrangements import Arrangement
from worker.tuning.choosing import Measured, measured

FRAMES_TOPIC = "tune.frames"
PARTITIONS = 8  # for twice the processes that are tried, and more
SESSION_TIMEOUT_MS = 6_000  # Tansu lets a group's first member wait for half of it, in every run
MAX_WAITING_BYTES = 512 << 20  # of all frames; the broker keeps them in memory
_POLL_S = 0.1  # between looks at the outputs: reading them shall cost next to nothing
_STALL_S = 60.0
_STOP_S = 30.0  # above the worker's drain grace
# Of the user's settings these are of another broker; how outcomes are delivered is left out of the comparison.
_REPLACED = ("kafka.", "topics.", "delivery.", "admin.", "limits.")


class _Generation(msgspec.Struct):
    generation: int | None = None


class Runs:
    """`settings` are the user's. `start_triton(instances)` is None where their own server or the local engine is used.

    What is started ends with the `stack`; `folder` gets settings files and logs.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        stack: ExitStack,
        start_triton: Callable[[int], TritonServer] | None = None,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._stack = stack
        self._start_triton = start_triton
        self._servers: dict[int, TritonServer] = {}
        self._broker = stack.enter_context(EmbeddedBroker())
        self._numbers = itertools.count(1)
        self._sent = 0

    def fill(self, pictures: Sequence[bytes], count: int) -> int:
        """Have `count` frames lie ready, of the pictures in turn, or as many as fit; returns how many do."""
        mean = sum(map(len, pictures)) / len(pictures)
        count = max(self._sent, min(count, int(MAX_WAITING_BYTES / mean)))
        settings = self._for("fill")
        create_topics(settings, PARTITIONS)
        with Sender(settings, settings.ingest.max_frame_bytes, acknowledged=lambda: None) as sender:
            for number in range(self._sent, count):
                key = b"stream-%d" % (number % PARTITIONS)
                sender.send(Message(FRAMES_TOPIC, key, pictures[number % len(pictures)], []))
            sender.drain()
        self._sent = count
        return count

    def run(self, arrangement: Arrangement) -> Measured:
        """Measure it over all frames that lie ready. Raises DependencyError if a worker ends or nothing comes any more."""
        name = f"run-{next(self._numbers)}"
        settings = self._for(name, arrangement)
        create_topics(settings, PARTITIONS)
        file = self._folder / f"{name}.toml"
        file.write_text(config.to_toml(settings), encoding="utf-8")
        command = [sys.executable, "-m", "worker.cli", "run", "-c", str(file)]
        with ExitStack() as stack:
            workers = [
                stack.enter_context(ServerProcess(command, file.with_suffix(f".{number}.log"), _environment()))
                for number in range(arrangement.processes)
            ]
            outputs = (settings.topics.predictions, settings.topics.dead_letters)
            reader = stack.enter_context(Reader(settings, outputs, from_beginning=True))
            found = self._read(reader, workers)
            for worker in workers:
                worker.stop(_STOP_S)
        return found

    def _read(self, reader: Reader, workers: Sequence[ServerProcess]) -> Measured:
        outcomes: list[tuple[float, int]] = []
        cpu: list[tuple[float, float]] = []
        heard = time.monotonic()
        roots = [worker.pid for worker in workers] + [server.pid for server in self._servers.values()]
        while len(outcomes) < self._sent:
            cpu.append((time.time(), _cpu_seconds(roots)))
            new = [(record.timestamp_ms / 1000, _generation(record)) for record in reader.poll(_POLL_S)]
            outcomes += new
            if new:
                heard = time.monotonic()
            elif time.monotonic() - heard > _STALL_S:
                raise DependencyError(
                    f"{len(outcomes)} of {self._sent} frames came out, then nothing for {_STALL_S:g} s; the worker said:\n"
                    f"{workers[0].tail()}"
                )
            for worker in workers:
                worker.check_alive()
            time.sleep(_POLL_S)
        cpu.append((time.time(), _cpu_seconds(roots)))
        return measured(outcomes, cpu)

    def _for(self, name: str, arrangement: Arrangement | None = None) -> Settings:
        """The user's settings for one run: the embedded broker, topics and a group of its own, and the arrangement."""
        settings = self._settings if arrangement is None else self.served_by(arrangement.engines)
        keys = arrangement.settings(settings.infer.backend == "local") if arrangement else {}
        theirs = {key: value for key, value in config.changed(settings).items() if not key.startswith(_REPLACED)}
        ours = {
            "kafka.bootstrap_servers": self._broker.bootstrap_servers,
            "kafka.group_id": name,
            "kafka.session_timeout_ms": SESSION_TIMEOUT_MS,
            "topics.frames": FRAMES_TOPIC,
            "topics.predictions": f"{name}.predictions",
            "topics.dead_letters": f"{name}.dlq",
            "topics.statistics": f"{name}.stats",
            "admin.port": 0,
        }
        return config.load(flags={**theirs, **ours, **keys}).settings

    def served_by(self, engines: int) -> Settings:
        """The user's settings, at a Triton of ours with so many instances where that is for us to set."""
        if self._start_triton is None:
            return self._settings
        if engines not in self._servers:
            self._servers[engines] = self._stack.enter_context(self._start_triton(engines))
        replace = msgspec.structs.replace
        infer = replace(self._settings.infer, url=self._servers[engines].grpc_url)
        return replace(self._settings, infer=infer)


def _generation(record: Record) -> int:
    """Of the group that made the prediction; -1 of a dead letter, which does not tell."""
    if any(name == "dlq-reason" for name in record.headers):
        return -1
    generation = msgspec.json.decode(record.value or b"{}", type=_Generation).generation
    return -1 if generation is None else generation


def _cpu_seconds(roots: Iterable[int]) -> float:
    """Of the processes and all their children so far."""
    total = 0.0
    for root in roots:
        with contextlib.suppress(psutil.Error):  # one that ended; the caller finds out
            process = psutil.Process(root)
            for each in (process, *process.children(recursive=True)):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def _environment() -> dict[str, str]:
    """This one without our settings: they are in the file already, and some are replaced there."""
    ours = {name for name in os.environ if name.startswith(config.ENV_PREFIX)} - config.ENV_OTHER
    return {name: value for name, value in os.environ.items() if name not in ours}
