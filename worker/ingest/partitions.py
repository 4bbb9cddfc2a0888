"""What a consumer tells of its partitions: frames that came, offsets that were gone, where to start, who owns them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from worker.frames import Frame, SourcePartition


class Rebalance(Protocol):
    """What the pipeline does when partitions come and go; all but `epoch` is called on the client's I/O thread."""

    def epoch(self, source: SourcePartition) -> int:
        """The epoch new frames of a partition carry. Called from the poll thread."""

    def assigned(self, sources: Collection[SourcePartition]) -> None:
        """New partitions; they stay paused until `Consumer.begin`."""

    def revoking(self, sources: Collection[SourcePartition]) -> None:
        """These are asked for: stop taking their frames."""

    def drained(self, sources: Collection[SourcePartition]) -> dict[SourcePartition, int] | None:
        """Offsets to commit once nothing of these is under way; None while something is."""

    def lost(self, sources: Collection[SourcePartition]) -> None:
        """The group gave them away without asking us."""

    def revoked(self, sources: Collection[SourcePartition]) -> None:
        """They are somebody else's from now on."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames of one partition; `position` is the offset after the last."""

    source: SourcePartition
    frames: tuple[Frame, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """Offsets [start, end) of a partition were gone before they could be read; reading goes on at `resume_at`.

    Where the log now ends before `start` (a topic made anew), nothing is known to be gone and `resume_at` is lower.
    """

    source: SourcePartition
    start: int
    end: int
    resume_at: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A partition stopped at a record that can't be read."""

    source: SourcePartition
    offset: int
    detail: str


def start_offset(source: SourcePartition, committed: int | None, first: int, end: int) -> tuple[int, Skipped | None]:
    """Where a partition starts: its committed offset, else the earliest; what lies before the log's start is skipped.

    A committed offset beyond the log's end means that the topic was made anew: everything in it is unseen.
    """
    if committed is None:
        return first, None
    if committed < first:
        return first, Skipped(source, committed, first, first)
    if committed > end:
        return first, Skipped(source, committed, committed, first)
    return committed, None
