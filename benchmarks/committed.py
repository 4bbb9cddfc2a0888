"""A reader of committed records: when each prediction can be seen by one who waits for its transaction.

Runs in a thread of the harness while a worker runs; the times are the harness's own, seconds since the epoch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType

from kafka import KafkaConsumer, TopicPartition

from benchmarks.broker import PARTITIONS, Appended
from worker.embedded.process import ServerProcess
from worker.errors import FramesLost

# The broker holds an empty fetch no longer than this: the reader adds little of its own to what it sees.
FETCH_WAIT_MS = 10
_STALL_S = 60.0  # no worker is silent that long unless it is broken
_POLL_S = 0.05


class CommittedReader:
    """Reads a topic from its beginning; `seen` is what came, with the moment it came at."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.seen: list[Appended] = []
        self._ending = threading.Event()
        self._client = KafkaConsumer(
            bootstrap_servers=bootstrap_servers.split(","),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            metrics_enabled=False,
        )
        self._client.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._run, name="committed-reader", daemon=True)

    def __enter__(self) -> CommittedReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._client.close()

    def wait(self, frames: int, processes: Sequence[ServerProcess]) -> None:
        """Return once `frames` predictions were seen.

        Raises DependencyError with the process's log if one dies, FramesLost if nothing more comes, or too much.
        """
        done, changed = -1, time.monotonic()
        while (now := len(self.seen)) < frames:
            for process in processes:
                process.check_alive()
            if now != done:
                done, changed = now, time.monotonic()
            elif time.monotonic() - changed > _STALL_S:
                tails = "\n".join(process.tail() for process in processes)
                raise FramesLost(f"{done} of {frames} predictions were committed, then nothing more:\n{tails}")
            time.sleep(_POLL_S)
        if now > frames:
            raise FramesLost(f"{now} predictions for {frames} frames")

    def _run(self) -> None:
        while not self._ending.is_set():
            polled = self._client.poll(timeout_ms=100)
            at = time.time()
            self.seen += [Appended(at, r.key, r.value) for records in polled.values() for r in records]
