"""One of two workers is killed with -9: how long its partitions' frames wait for an outcome."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tests.acceptance.corpus import small
from tests.rig.audit import produce_frames, wait_until_done
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess
from worker.errors import DependencyError

TAKEOVER_BOUND_S = 5.0  # beyond session_timeout_ms
_WAIT_S = 120.0


def takeover_s(topics: Topics, settings: Mapping[str, Any]) -> float:
    """Seconds from the kill until every frame sent right after it, to all partitions, has its outcome.

    `topics` has an even number of partitions. Raises DependencyError where frames are lost or the workers do not share the partitions.
    """
    with WorkerProcess(settings) as one, WorkerProcess(settings) as other:
        _share(one, other, topics.partitions // 2)
        one.kill9()
        killed_at = time.monotonic()
        count = 10 * topics.partitions
        sent = produce_frames(
            topics.bootstrap_servers, topics.frames, small(count, 4), partition_of=lambda n: n % topics.partitions
        )
        audit = wait_until_done(topics, sent, _WAIT_S, other.check_alive)
        if audit.problems:
            raise DependencyError(f"after the take-over: {audit}")
        return time.monotonic() - killed_at


def _share(one: WorkerProcess, other: WorkerProcess, half: int) -> None:
    deadline = time.monotonic() + _WAIT_S
    for worker in (one, other):
        worker.wait_ready(_WAIT_S)
    while {worker.metric("partitions_assigned") for worker in (one, other)} != {half}:
        if time.monotonic() > deadline:
            raise DependencyError(f"the workers do not share the partitions after {_WAIT_S:g} s")
        time.sleep(0.05)
