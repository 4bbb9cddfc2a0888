"""One transaction after another, as a table of states: what was written in it, and which offsets go with it. Pure.

begin -> wrote, wrote, ... -> close -> committed; or failed -> renewed. `close` lets no transaction pass whose offsets do
not cover every outcome written in it: such an outcome would be written again after a crash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from worker.errors import PublishFailed
from worker.frames import SourcePartition


class State(StrEnum):
    """Where the transaction stands."""

    IDLE = "idle"
    OPEN = "open"  # records are being sent
    COMMITTING = "committing"  # no more of them: acknowledgements, offsets and the commit are under way
    BROKEN = "broken"  # nothing of it will count; the producer has to be made anew


class Event(StrEnum):
    """What moves it on."""

    BEGIN = "begin"
    CLOSE = "close"
    COMMITTED = "committed"
    FAILED = "failed"
    RENEWED = "renewed"


# What is not in here raises and changes nothing.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.IDLE, Event.BEGIN): State.OPEN,
    (State.OPEN, Event.CLOSE): State.COMMITTING,
    (State.COMMITTING, Event.COMMITTED): State.IDLE,
    (State.IDLE, Event.FAILED): State.BROKEN,
    (State.OPEN, Event.FAILED): State.BROKEN,
    (State.COMMITTING, Event.FAILED): State.BROKEN,
    (State.BROKEN, Event.RENEWED): State.IDLE,
}


class Span(Protocol):
    """Half-open offsets [start, end) of one partition in one epoch, to be committed."""

    @property
    def source(self) -> SourcePartition: ...
    @property
    def epoch(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


# Of the time to commit that is expected, what is left of it after a transaction that took less.
FORGETTING = 0.75


class Transaction:
    """The one transaction there is at a time; `length_s` is what it should take as a whole. Times are monotonic seconds.

    Committing takes 20 ms on a quiet machine and 100 on a busy one: it stays open for what the last ones left of its length.
    """

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._committing_s = length_s  # expected; the first one finds every connection still to be made
        self._state = State.IDLE
        self._begun_at = 0.0
        self._closed_at = 0.0
        self._written: dict[SourcePartition, tuple[int, int, int]] = {}  # epoch, first and last offset

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    def age_s(self, now: float) -> float:
        """Seconds since it began; 0 where none is open."""
        return now - self._begun_at if self._state in (State.OPEN, State.COMMITTING) else 0.0

    def remaining_s(self, now: float) -> float:
        """Seconds that it should stay open; infinite where none is."""
        if self._state is not State.OPEN:
            return math.inf
        return max(0.0, self._length_s - self._committing_s - self.age_s(now))

    def begin(self, now: float) -> None:
        """The first record is about to be sent."""
        self._move(Event.BEGIN)
        self._begun_at = now
        self._written.clear()

    def wrote(self, source: SourcePartition, epoch: int, offsets: Sequence[int]) -> None:
        """Outcomes of these frames go into it; ascending, over all calls.

        Raises PublishFailed if the partition went away and came back since its first outcome: that one is not ours to
        commit any more. Raises ValueError for offsets that go back, which no rule foresees.
        """
        if self._state is not State.OPEN:
            raise ValueError(f"an outcome of {source} is written into a transaction that is {self._state}")
        first, last = offsets[0], offsets[0] - 1
        if source in self._written:
            known, first, last = self._written[source]
            if known != epoch:
                raise PublishFailed(f"{_name(source)} went away and came back while a transaction held its outcomes")
        for offset in offsets:
            if offset <= last:
                raise ValueError(f"the outcome of offset {offset} of {source} is written after that of {last}")
            last = offset
        self._written[source] = (epoch, first, last)

    def close(self, spans: Iterable[Span], now: float) -> None:
        """Nothing more goes into it, and these offsets are to be committed with it.

        Raises PublishFailed, and changes nothing, if they leave out an outcome: its partition was taken away meanwhile.
        """
        by_source = {span.source: span for span in spans}
        for source, (epoch, first, last) in self._written.items():
            span = by_source.get(source)
            if span is None or span.epoch != epoch or not (span.start <= first and last < span.end):
                raise PublishFailed(
                    f"{_name(source)}: outcomes of offsets {first} to {last} are in the transaction and their offsets "
                    f"can't be committed with it; the partition was taken away"
                )
        self._move(Event.CLOSE)
        self._closed_at = now

    def committed(self, now: float) -> None:
        """All of it counts."""
        self._move(Event.COMMITTED)
        self._committing_s = max(now - self._closed_at, FORGETTING * self._committing_s)

    def failed(self) -> None:
        """Nothing of it counts, or nobody knows."""
        self._move(Event.FAILED)

    def renewed(self) -> None:
        """The broker has ended what was left of it; the next may begin."""
        self._move(Event.RENEWED)

    def _move(self, event: Event) -> None:
        after = TRANSITIONS.get((self._state, event))
        if after is None:
            raise ValueError(f"a transaction that is {self._state} can't take {event}")
        self._state = after


def _name(source: SourcePartition) -> str:
    return f"{source.topic}/{source.partition}"
