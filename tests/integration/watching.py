"""What the tests of guarantees ask again and again: send some frames, wait until something holds, read what a worker tells."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.acceptance.corpus import small
from tests.rig.audit import TopicReader, produce_frames
from tests.rig.outcomes import SentFrame
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess

SLACK = 5  # a bound on time is for liveness: it holds on a machine several times slower


def send_small(made: Topics, count: int, keys: int = 7) -> list[SentFrame]:
    return produce_frames(made.bootstrap_servers, made.frames, small(count, keys))


def records_in(made: Topics, topic: str) -> int:
    with TopicReader(made.bootstrap_servers, [topic]) as reader:
        return len(reader.read_on())


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def until(worker: WorkerProcess, name: str, least: float) -> None:
    worker.wait_ready(60)

    def reached() -> bool:
        worker.check_alive()
        return worker.metric(name) >= least

    eventually(reached, f"{name} is at least {least}")


def lags(worker: WorkerProcess) -> list[float]:
    """The worker's own word on each partition; none before the first fetch."""
    return [value for name, value in worker.metrics().items() if name.startswith("headrace_consumer_lag{")]
