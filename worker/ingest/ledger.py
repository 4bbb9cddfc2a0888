"""Offset ledger: completions come in any order, and out comes the offset that may be committed for each partition.

Pure: no clock, no lock (its one owner, the pipeline, serialises calls), no client. A partition may be sealed up to its
lowest outstanding offset, or, when nothing is outstanding, up to the consumer's position, so that gaps (transaction
markers, compacted records) never hold a commit back. The way of an offset: outstanding, complete, sealing (its statistics
are on their way), sealed, committed.
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
    sealing: int  # statistics are on their way up to here
    sealed: int  # statistics are acknowledged up to here, so it may be committed
    position: int  # next offset to be fetched; every admitted offset is below it
    outstanding: deque[int] = field(default_factory=deque)  # admitted and not popped, ascending
    done: set[int] = field(default_factory=set)  # completed ahead of a lower outstanding one
    closing: bool = False  # being handed over: no new frames, completions still count
    rewinding: bool = False  # frames are refused until the consumer stands at `committed` again


def _fresh(epoch: int, offset: int, rewinding: bool = False) -> _Entry:
    return _Entry(epoch, offset, offset, offset, offset, rewinding=rewinding)


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
        self._entries[source] = _fresh(self._last_epoch, position)
        return self._last_epoch

    def revoke(self, sources: Iterable[SourcePartition]) -> None:
        """Forget partitions; their late outcomes are ignored from now on."""
        for source in sources:
            self._entries.pop(source, None)

    def epoch(self, source: SourcePartition) -> int | None:
        """The epoch an outcome of this partition must carry to count, also while it is handed over; None: none counts."""
        entry = self._entries.get(source)
        return None if entry is None or entry.rewinding else entry.epoch

    def admit(self, source: SourcePartition, epoch: int, offsets: Collection[int], position: int) -> bool:
        """Frames at `offsets` (ascending) entered the way; `position` follows the last. False: stale, drop them.

        Raises ValueError for offsets that go back, which would break the order of everything below.
        """
        entry = self._current(source, epoch)
        if entry is None or entry.closing:
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
        if entry is not None and not entry.rewinding and not entry.closing:
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

    def closing(self, sources: Iterable[SourcePartition]) -> None:
        """These are being handed over: from now on their frames are refused, so that none can pass one that was dropped."""
        for _, entry in self._chosen(sources):
            entry.closing = True

    def truncate(self, source: SourcePartition, offset: int) -> None:
        """Frames from `offset` on were dropped before they were taken; the partition ends there for us."""
        entry = self._entries.get(source)
        if entry is None or entry.rewinding:  # a rewinding one ends at its committed offset already
            return
        while entry.outstanding and entry.outstanding[-1] >= offset:
            entry.outstanding.pop()
        entry.position = min(entry.position, offset)  # never forward: that would commit what nobody processed

    def sealable(self, sources: Iterable[SourcePartition] | None = None) -> list[Range]:
        """Complete ranges whose statistics are not on their way yet; from now on they are. Of all partitions or of these."""
        ranges = []
        for source, entry in self._chosen(sources):
            end = entry.outstanding[0] if entry.outstanding else entry.position
            if not entry.rewinding and end > entry.sealing:
                ranges.append(Range(source, entry.epoch, entry.sealing, end))
                entry.sealing = end
        return ranges

    def sealed(self, done: Range) -> None:
        """The statistics of this range are acknowledged."""
        entry = self._current(done.source, done.epoch)
        if entry is not None:
            entry.sealed = max(entry.sealed, done.end)

    def commits(self, sources: Iterable[SourcePartition] | None = None) -> list[Range]:
        """What is sealed and not committed. Stays until `committed` is called, so that a failed commit is tried again."""
        return [
            Range(source, entry.epoch, entry.committed, entry.sealed)
            for source, entry in self._chosen(sources)
            if not entry.rewinding and entry.sealed > entry.committed
        ]

    def committed(self, done: Range) -> None:
        """The broker has the commit of this range. Never goes back."""
        entry = self._current(done.source, done.epoch)
        if entry is not None:
            entry.committed = max(entry.committed, done.end)

    def settled(self, sources: Iterable[SourcePartition] | None = None) -> bool:
        """Nothing outstanding and everything sealed, of all partitions or of these: only the commit is left."""
        return all(
            entry.rewinding or (not entry.outstanding and entry.sealed >= entry.position)
            for _, entry in self._chosen(sources)
        )

    def invalidate(self, sources: Iterable[SourcePartition]) -> None:
        """Take partitions back to their committed offsets: frames are refused until `rewound`, late outcomes ignored."""
        for source in sources:
            entry = self._entries.get(source)
            if entry is not None:
                self._last_epoch += 1
                self._entries[source] = _fresh(self._last_epoch, entry.committed, rewinding=True)

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
        return sum(len(entry.outstanding) - len(entry.done) for _, entry in self._chosen(sources))

    @property
    def sources(self) -> frozenset[SourcePartition]:
        """The partitions assigned now."""
        return frozenset(self._entries)

    def _chosen(self, sources: Iterable[SourcePartition] | None) -> list[tuple[SourcePartition, _Entry]]:
        if sources is None:
            return list(self._entries.items())
        return [(source, self._entries[source]) for source in sources if source in self._entries]

    def _current(self, source: SourcePartition, epoch: int) -> _Entry | None:
        entry = self._entries.get(source)
        return entry if entry is not None and entry.epoch == epoch and not entry.rewinding else None
