"""A worker is ended at random moments of a run and started again; then all outcomes are counted from outside.

Frames come at a steady rate all the while, so that each start finds a backlog and, if it lives long enough, works it off
and meets the light load after it: a seed fixes which of these phases each end falls into.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.acceptance.feed import Feed
from tests.rig.audit import Auditor, TopicReader, committed_lag, header
from tests.rig.outcomes import Audit
from tests.rig.topics import Topics
from tests.rig.worker import WorkerProcess

DONE_S = 120.0  # for the last start to work off what is left
_SIGNALS_S = 60.0


@dataclass(frozen=True, slots=True)
class End:
    """One end of the worker. `in_flight` frames by its own metric just before, `at_s` in Unix seconds."""

    exit_code: int
    took_s: float
    in_flight: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Killed:
    """What became of the run. The lists have one item an end, in order."""

    audit: Audit
    lag: int
    ends: tuple[End, ...]
    repeated: tuple[int, ...]  # outcomes written before this end, and written again after it
    allowed: tuple[int, ...]  # frames in flight, and those written in the last commit interval
    oldest_repeated_s: float  # the longest time from an outcome to the end that made it be written again


def killed_and_restarted(
    topics: Topics,
    settings: Mapping[str, Any],
    ends: int,
    at_least: int,
    per_s: float,
    longest_life_s: float,
    by_signal: bool,
    seed: int,
) -> Killed:
    """End the worker `ends` times, by SIGTERM or by SIGKILL, each time within `longest_life_s` of its first sign of life.

    At least `at_least` frames are sent. Raises DependencyError when a worker ends by itself.
    """
    rng = random.Random(seed)
    seen: list[End] = []
    with Feed(topics, per_s) as feed:
        for _ in range(ends):
            with WorkerProcess(settings) as worker:
                _wait_until_signals_are_heard(worker)
                time.sleep(rng.uniform(0.0, longest_life_s))
                worker.check_alive()
                in_flight = int(worker.metric("frames_in_flight"))
                at_s, started = time.time(), time.monotonic()
                if by_signal:
                    code = worker.stop()
                else:
                    worker.kill9()
                    code = -9
                seen.append(End(code, time.monotonic() - started, in_flight, at_s))
        with WorkerProcess(settings) as worker:
            sent = feed.end(at_least)
            with Auditor(topics, sent) as auditor:
                audit = auditor.wait_until_done(DONE_S, worker.check_alive)
            worker.stop()
    interval_s = settings.get("delivery", {}).get("commit_interval_ms", 500) / 1000
    repeated, allowed, oldest_s = _repeats(topics, seen, interval_s)
    return Killed(audit, committed_lag(topics), tuple(seen), repeated, allowed, oldest_s)


def _wait_until_signals_are_heard(worker: WorkerProcess) -> None:
    """The admin port answers after the signal handlers are in place; before, SIGTERM ends any Python program."""
    deadline = time.monotonic() + _SIGNALS_S
    while True:
        worker.check_alive()
        try:
            worker.metrics()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _repeats(topics: Topics, ends: list[End], interval_s: float) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """See `Killed`. The time of an outcome is its record's own, which the producer gives it as it is sent."""
    written: dict[str, list[float]] = {}
    with TopicReader(topics.bootstrap_servers, [topics.predictions]) as reader:
        for message in reader.read_on():
            written.setdefault(header(message, "ce_id").decode(), []).append(message.timestamp()[1] / 1000)
    times = [end.at_s for end in ends]
    repeated = [0] * len(ends)
    recent = [0] * len(ends)
    oldest_s = 0.0
    for moments in written.values():
        moments.sort()
        for number_of_copy, moment in enumerate(moments):
            end = bisect_left(times, moment)
            if end == len(ends):
                continue
            age_s = times[end] - moment
            recent[end] += age_s <= interval_s
            if number_of_copy + 1 < len(moments):  # written once more: this end is why
                repeated[end] += 1
                oldest_s = max(oldest_s, age_s)
    allowed = [end.in_flight + count for end, count in zip(ends, recent, strict=True)]
    return tuple(repeated), tuple(allowed), oldest_s
