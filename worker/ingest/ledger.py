"""Offset ledger: completions come in any order, and out comes the offset that may be committed for each partition.

Pure: no clock, no lock (its one owner, the pipeline, serialises calls), no client. The committable offset is the lowest
outstanding one, or, when nothing is outstanding, the consumer's position, so that gaps (transaction markers, compacted
records) never hold a commit back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from worker.frames import SourcePartition


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open offsets [start, end) of one partition in one epoch, complete and not committed yet."""

    source: SourcePartition
    epoch: int
    start: int
    end: int


@dataclass(slots=True)
class _Entry:
    epoch: int
    committed: int  # everything below is committed; where a rewind goes back to
    position: int  # next offset to be fetched; every admitted offset is below it
    outstanding: deque[int] = field(default_factory=deque)  # admitted and not popped, ascending
    done: set[int] = field(default_factory=set)  # completed ahead of a lower outstanding one
    rewinding: bool = False  # frames are refused until the consumer stands at `committed` again


class Ledger:
    """One entry for each assigned partition.

    An entry's `epoch` changes at each assignment and each rewind; whatever carries another epoch is ignored, so that a
    late outcome can neither complete nor commit anything.
    """

    def __init__(self) -> None:
        self._entries: dict[SourcePartition, _Entry] = {}
        self._last_epoch = 0

    def assign(self, source: SourcePartition, position: int) -> int:
        """Begin (or begin anew) at `position`, the committed offset or where the reset policy put it. Returns the epoch."""
        self._last_epoch += 1
        self._entries[source] = _Entry(self._last_epoch, position, position)
        return self._last_epoch

    def revoke(self, sources: Iterable[SourcePartition]) -> None:
        """Forget partitions; their late outcomes are ignored from now on."""
        for source in sources:
            self._entries.pop(source, None)

    def epoch(self, source: SourcePartition) -> int | None:
        """The epoch frames of this partition must carry now; None while they are refused."""
        entry = self._entries.get(source)
        return None if entry is None or entry.rewinding else entry.epoch

    def admit(self, source: SourcePartition, epoch: int, offsets: Collection[int], position: int) -> bool:
        """Frames at `offsets` (ascending) entered the way; `position` follows the last. False: stale, drop them.

        Raises ValueError for offsets that go back, which would break the order of everything below.
        """
        entry = self._current(source, epoch)
        if entry is None:
            return False
        last = entry.position - 1
        for offset in offsets:
            if offset <= last:
                raise ValueError(f"offset {offset} of {source} admitted after {last}")
            last = offset
        entry.outstanding.extend(offsets)
        entry.position = max(position, last + 1)
        return True

    def observe(self, source: SourcePartition, position: int) -> None:
        """The consumer moved to `position` without a frame (markers, compaction)."""
        entry = self._entries.get(source)
        if entry is not None and not entry.rewinding:
            entry.position = max(entry.position, position)

    def complete(self, source: SourcePartition, epoch: int, offsets: Iterable[int]) -> None:
        """The outcomes of these frames are acknowledged. Stale epochs are ignored."""
        entry = self._current(source, epoch)
        if entry is None:
            return
        outstanding, done = entry.outstanding, entry.done
        for offset in offsets:
            if outstanding and outstanding[0] == offset:  # the usual case: in order
                outstanding.popleft()
            else:
                done.add(offset)
        while outstanding and outstanding[0] in done:
            done.discard(outstanding.popleft())

    def truncate(self, source: SourcePartition, offset: int) -> None:
        """Frames from `offset` on were dropped before they were taken; the partition ends there for us."""
        entry = self._entries.get(source)
        if entry is None:
            return
        while entry.outstanding and entry.outstanding[-1] >= offset:
            entry.outstanding.pop()
        entry.position = offset

    def committable(self) -> list[Range]:
        """What may be committed now, for each partition that moved since its last commit."""
        ranges = []
        for source, entry in self._entries.items():
            end = entry.outstanding[0] if entry.outstanding else entry.position
            if not entry.rewinding and end > entry.committed:
                ranges.append(Range(source, entry.epoch, entry.committed, end))
        return ranges

    def committed(self, done: Range) -> None:
        """The broker has the commit of this range. Never goes back."""
        entry = self._current(done.source, done.epoch)
        if entry is not None:
            entry.committed = max(entry.committed, done.end)

    def invalidate(self, sources: Iterable[SourcePartition]) -> None:
        """Take partitions back to their committed offsets: frames are refused until `rewound`, late outcomes ignored."""
        for source in sources:
            entry = self._entries.get(source)
            if entry is not None:
                self._last_epoch += 1
                self._entries[source] = _Entry(self._last_epoch, entry.committed, entry.committed, rewinding=True)

    def rewinds(self) -> dict[SourcePartition, int]:
        """Partitions waiting for the consumer to go back, with the offset to go to."""
        return {source: entry.committed for source, entry in self._entries.items() if entry.rewinding}

    def rewound(self, source: SourcePartition) -> None:
        """The consumer stands at the committed offset again."""
        entry = self._entries.get(source)
        if entry is not None:
            entry.rewinding = False

    def outstanding(self, sources: Iterable[SourcePartition] | None = None) -> int:
        """Frames admitted and not completed, of all partitions or of these."""
        entries = self._entries.values() if sources is None else [self._entries[s] for s in sources if s in self._entries]
        return sum(len(entry.outstanding) - len(entry.done) for entry in entries)

    @property
    def sources(self) -> frozenset[SourcePartition]:
        """The partitions assigned now."""
        return frozenset(self._entries)

    def _current(self, source: SourcePartition, epoch: int) -> _Entry | None:
        entry = self._entries.get(source)
        return entry if entry is not None and entry.epoch == epoch and not entry.rewinding else None
