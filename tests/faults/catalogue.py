"""The twenty faults by number, with the modes and how many seeds each is run in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import brokers, frames, hostile, inference, workers
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
    Fault(
        6,
        "leader-killed",
        "broker killed, leader changes (three brokers, acks all)",
        brokers.leader_killed,
        three_brokers=True,
    ),
    Fault(7, "cut-off-in-commit", "cut off from the broker during a commit", brokers.cut_off_during_a_commit),
    Fault(8, "sigterm-full-queues", "SIGTERM with full queues", workers.ended_with_full_queues),
    Fault(9, "triton-killed", "Triton killed, restarted", inference.killed_and_restarted, ONE, MANY),
    Fault(10, "triton-hangs", "Triton hangs (SIGSTOP)", inference.hangs, seeds=MANY),
    Fault(11, "triton-errs", "half of Triton's answers are errors", inference.answers_errors, ONE, MANY),
    Fault(12, "fallback-down-too", "primary and fallback down", inference.fallback_down_too, ONE, MANY),
    Fault(13, "one-bad-frame", "one bad frame in a batch of 32", frames.one_bad_frame_in_a_batch, ONE),
    Fault(14, "poison-key", "a poison key forever", frames.a_key_of_poison, ONE),
    Fault(15, "no-dead-letter-topic", "dead-letter topic unavailable", brokers.dead_letters_have_no_topic, ONE),
    Fault(16, "stub-killed", "stub of the python backend killed", inference.stub_killed, ONE),
    Fault(
        17,
        "offsets-reset",
        "offsets set back, set forward, gone; topic made anew",
        brokers.offsets_are_not_what_they_were,
        ONE,
        4,
    ),
    Fault(18, "hostile-bytes", "hostile bytes: every value of the list", hostile.hostile_bytes, ONE),
    Fault(
        19,
        "can-not-write",
        "disk full on the broker; record too large for its topic",
        brokers.nothing_can_be_written,
        seeds=4,
    ),
    Fault(20, "model-switched", "model switched while running", inference.model_switched, ONE),
)
