"""What a run showed and whether that is good enough: counted from the records alone, without any I/O.

In go the audit, the outcome records with their times, and when the fault struck; out comes a `Result`, one line of the
file that docs/reliability.md's table is made of.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tests.rig.outcomes import Audit

SECOND = 1.0


class Strike(NamedTuple):
    """One fault. Unix seconds; `over_s` is when recovering could begin, `in_flight` the workers' own word just before."""

    at_s: float
    over_s: float
    in_flight: int


class Written(NamedTuple):
    """One outcome record on a topic: whose it is, where it lies, when and by whom it was written."""

    id: str
    source: str  # ce_source; empty for a dead letter
    topic: str
    partition: int
    offset: int
    at_s: float
    generation: int
    served_by: str  # empty for a dead letter

    @property
    def source_partition(self) -> str:
        return self.id.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Result:
    """A run's line. `problems` is empty when all that was asked of the run holds."""

    fault: int
    name: str
    mode: str
    seed: int
    sent: int = 0
    predicted: int = 0
    fallback: int = 0
    dead_lettered: int = 0
    lost: int = 0
    repeated_raw: int = 0
    repeated_allowed: int = 0
    repeated_by_id: int = 0
    out_of_order: int = 0
    out_of_order_fenced: int = 0
    recovery_s: float | None = None
    peak_mib: float = 0.0
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""
    at: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fenced(records: Iterable[Written]) -> list[Written]:
    """What a reader keeps that drops, in each partition it reads, records of a generation older than one it has seen of
    the same source partition."""
    highest: dict[tuple[str, int, str], int] = {}
    kept = []
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        place = (record.topic, record.partition, record.source_partition)
        if record.generation >= highest.get(place, record.generation):
            highest[place] = record.generation
            kept.append(record)
    return kept


def repeated_by_id(records: Iterable[Written]) -> int:
    """Predictions that are left over when a reader keeps one of each (ce_source, ce_id)."""
    pairs = {(record.source, record.id) for record in records if record.source}
    return len(pairs) - len({id_ for _, id_ in pairs})


def repeats_allowed(records: Sequence[Written], strikes: Sequence[Strike]) -> int:
    """What was in flight, and one second's frames, for each fault: the fullest second that begins at most one before it
    and at most at its end."""
    times = sorted(record.at_s for record in records)
    allowed = 0
    for strike in strikes:
        begins = times[bisect_left(times, strike.at_s - SECOND) : bisect_right(times, strike.over_s)]
        fullest = max((bisect_right(times, begin + SECOND) - bisect_left(times, begin) for begin in begins), default=0)
        allowed += strike.in_flight + fullest
    return allowed


def repeats_told(records: Iterable[Written]) -> list[str]:
    """For who looks for a cause: how many frames of a source partition were written by which generation, and then again."""
    firsts: dict[str, Written] = {}
    times: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for record in sorted(records, key=lambda record: record.at_s):
        first = firsts.setdefault(record.id, record)
        if first is not record:
            place = (record.source_partition, first.generation, record.generation)
            times.setdefault(place, []).append((first.at_s, record.at_s))
    return [
        f"{len(pairs)} of {source}: generation {one} from {_clock(pairs[0][0])}, {other} from {_clock(pairs[0][1])} "
        f"to {_clock(pairs[-1][1])}"
        for (source, one, other), pairs in sorted(times.items())
    ]


def _clock(at_s: float) -> str:
    """As in the workers' logs."""
    return f"{datetime.fromtimestamp(at_s):%H:%M:%S.%f}"[:-3]


def recovery_s(records: Iterable[Written], strikes: Sequence[Strike]) -> float | None:
    """The longest time from the end of a fault to the first new outcome of each source partition; None without any."""
    firsts: dict[str, Written] = {}
    for record in sorted(records, key=lambda record: record.at_s):
        firsts.setdefault(record.id, record)
    by_partition: dict[str, list[float]] = {}
    for record in firsts.values():
        by_partition.setdefault(record.source_partition, []).append(record.at_s)
    waits = []
    for number, strike in enumerate(strikes):
        following = strikes[number + 1].at_s if number + 1 < len(strikes) else math.inf
        for times in by_partition.values():
            place = bisect_left(times, strike.over_s)
            if place < len(times) and times[place] < following:
                waits.append(times[place] - strike.over_s)
    return max(waits, default=None)


def problems(
    mode: str,
    audit: Audit,
    in_order: bool,
    repeats: tuple[int, int, int],
    fenced_out_of_order: int,
    lag: int,
) -> list[str]:
    """What is asked of every run. `repeats` are raw, allowed and by id; `in_order` asks for order without fencing too."""
    raw, allowed, by_id = repeats
    found = {
        "lost": audit.lost_ids,
        "never sent": audit.unknown_ids,
        "with another key": audit.changed_key_ids,
        "out of order": audit.out_of_order_ids if in_order or mode == "exactly_once" else (),
        "with two outcomes": audit.duplicate_ids if mode == "exactly_once" else (),
    }
    told = [f"{len(ids)} {kind} ({', '.join(ids[:5])})" for kind, ids in found.items() if ids]
    if raw > allowed and mode == "at_least_once":
        told.append(f"{raw} repeats, {allowed} allowed")
    if by_id:
        told.append(f"{by_id} repeats under another id")
    if fenced_out_of_order:
        told.append(f"{fenced_out_of_order} out of order for a reader that fences")
    if lag:
        told.append(f"{lag} frames not committed at the end")
    return told
