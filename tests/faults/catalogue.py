"""The twenty faults by number, with the modes and how many seeds each is run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import workers
from tests.faults.run import EXACTLY_ONCE, Run

AT_LEAST_ONCE = "at_least_once"
ONE = (AT_LEAST_ONCE,)
BOTH = (AT_LEAST_ONCE, EXACTLY_ONCE)
FEW, MANY = 3, 10


@dataclass(frozen=True, slots=True)
class Fault:
    """`what` stands in the table; `three_brokers` is for faults that need a leader to change."""

    number: int
    name: str
    what: str
    act: Callable[[Run], None]
    modes: tuple[str, ...] = BOTH
    seeds: int = FEW
    three_brokers: bool = False


FAULTS = (
    Fault(1, "kill-mid-batch", "kill -9 mid-batch", workers.killed_mid_batch, seeds=MANY),
    Fault(
        2,
        "kill-before-commit",
        "kill -9 between acknowledgement and commit",
        workers.killed_before_the_commit,
        seeds=MANY,
    ),
    Fault(
        3,
        "zombie",
        "SIGSTOP past max.poll.interval, then resume, while another took over",
        workers.stopped_past_the_poll_interval,
        seeds=MANY,
    ),
    Fault(4, "rolling-scale", "1 -> 3 -> 1 workers under load", workers.scaled_up_and_down, seeds=MANY),
    Fault(
        5,
        "kill-storm",
        "sixty kills, each within 500 ms of the start's first acknowledged prediction",
        workers.killed_again_and_again,
        seeds=MANY,
    ),
    Fault(8, "sigterm-full-queues", "SIGTERM with full queues", workers.ended_with_full_queues),
)
