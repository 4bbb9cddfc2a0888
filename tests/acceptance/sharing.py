"""Two workers join and leave one group at random under a steady load; then all outcomes are counted from outside."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.acceptance.feed import Feed
from tests.rig.audit import Auditor, committed_lag
from tests.rig.outcomes import Audit
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess

DONE_S = 120.0
# Between two events: at once, in the middle of the rebalance that the one before began, or after it.
_PAUSES_S = (0.0, 0.2, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Shared:
    """What became of the run."""

    audit: Audit
    lag: int
    joins: int
    leaves: int
    slowest_leave_s: float
    exit_codes: tuple[int, ...]


def joined_and_left(topics: Topics, settings: Mapping[str, Any], seconds: float, per_s: float, seed: int) -> Shared:
    """For `seconds` one of two workers leaves (by SIGTERM) and comes again, which one and when being `seed`'s choice.

    Raises DependencyError when a worker ends by itself.
    """
    rng = random.Random(seed)
    workers: list[WorkerProcess] = []
    codes: list[int] = []
    joins, slowest_s = 0, 0.0
    until = time.monotonic() + seconds
    try:
        with Feed(topics, per_s) as feed:
            while time.monotonic() < until or not codes:  # on a busy machine starting takes all of the time
                if len(workers) < 2:
                    workers.append(WorkerProcess(settings))
                    joins += 1
                    workers[-1].wait_ready(60)
                else:
                    leaving = workers.pop(rng.randrange(2))
                    with leaving:
                        started = time.monotonic()
                        codes.append(leaving.stop())
                        slowest_s = max(slowest_s, time.monotonic() - started)
                time.sleep(rng.choice(_PAUSES_S))
            sent = feed.end()
        if not workers:
            workers.append(WorkerProcess(settings))

        def check() -> None:
            for worker in workers:
                worker.check_alive()

        with Auditor(topics, sent) as auditor:
            audit = auditor.wait_until_done(DONE_S, check)
        leaves = len(codes)
        codes += [worker.stop() for worker in workers]
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)
    return Shared(audit, committed_lag(topics), joins, leaves, slowest_s, tuple(codes))
