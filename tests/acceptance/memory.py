"""A backlog of frames of all sizes under a small budget, with the broker stopped in the middle if asked: what memory it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.acceptance.corpus import mixed
from tests.rig.audit import Auditor, committed_lag, produce_frames
from tests.rig.outcomes import Audit
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess

BUDGET_MIB = 64
BOUND_MIB = 350
CAMERAS = 97
DONE_S = 1800.0  # the largest frames take 0.1 to 0.2 s each to decode


class Pausable(Protocol):
    """A broker that can be stopped and go on."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """What became of it. `peak_mib` is the worker's highest resident memory, shared memory included, from start to end."""

    audit: Audit
    lag: int
    peak_mib: float
    exit_code: int
    seconds: float


def worked_off(
    topics: Topics,
    settings: Mapping[str, Any],
    frames: int,
    broker: Pausable | None = None,
    stopped_s: float = 0.0,
    seed: int = 1,
) -> Backlog:
    """Send `frames` mixed frames, then start a worker and wait until each has its outcome.

    With `broker`, it is stopped for `stopped_s` once a third is done. Raises DependencyError if the worker ends.
    """
    sent = produce_frames(topics.bootstrap_servers, topics.frames, mixed(frames, CAMERAS, seed))
    started = time.monotonic()
    with WorkerProcess(settings) as worker:
        worker.wait_ready(120)
        if broker is not None:
            while worker.metric("frames_predicted_total") < frames / 3:
                worker.check_alive()
                time.sleep(0.1)
            broker.pause()
            try:
                time.sleep(stopped_s)
                worker.check_alive()
            finally:
                broker.resume()
        with Auditor(topics, sent) as auditor:
            audit = auditor.wait_until_done(DONE_S, worker.check_alive)
        seconds = time.monotonic() - started
        code = worker.stop()
        return Backlog(audit, committed_lag(topics), worker.peak_rss_mib, code, seconds)
