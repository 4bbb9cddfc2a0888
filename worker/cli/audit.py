"""Counts what became of frames from outside the worker: lost, duplicated, out of order. Pure.

Each outcome that was read from an output topic goes in, in the order of its output partition; the worker's own counters
are not asked. The demo ends by this count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """One record on the predictions or the dead letter topic. `source` is the id of its frame's record."""

    frame_id: str
    source: str
    key: bytes | None
    topic: str


class Audit:
    """`good` and `bad` are the ids of the frames that were sent, by what should become of them."""

    def __init__(self, good: Collection[str], bad: Collection[str], dead_letters: str) -> None:
        self._good = frozenset(good)
        self._bad = frozenset(bad)
        self._dead_letters = dead_letters
        self._seen: Counter[str] = Counter()
        self._last_offset: dict[tuple[str, str, bytes | None], int] = {}
        self.out_of_order = 0
        self.unexpected = 0
        self.refused_good: list[str] = []
        self.passed_bad: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Take one in. A repeated one counts as a duplicate only, whatever its place."""
        if outcome.frame_id not in self._good and outcome.frame_id not in self._bad:
            self.unexpected += 1
            return
        self._seen[outcome.frame_id] += 1
        if self._seen[outcome.frame_id] > 1:
            return
        source_partition, _, offset = outcome.source.rpartition("/")
        stream = (outcome.topic, source_partition, outcome.key)
        if int(offset) < self._last_offset.get(stream, -1):
            self.out_of_order += 1
        self._last_offset[stream] = int(offset)
        is_letter = outcome.topic == self._dead_letters
        if is_letter and outcome.frame_id in self._good:
            self.refused_good.append(outcome.frame_id)
        if not is_letter and outcome.frame_id in self._bad:
            self.passed_bad.append(outcome.frame_id)

    @property
    def finished(self) -> int:
        """Frames that have an outcome."""
        return len(self._seen)

    @property
    def lost(self) -> int:
        """Frames without one."""
        return len(self._good) + len(self._bad) - len(self._seen)

    @property
    def duplicates(self) -> int:
        """Outcomes beyond a frame's first."""
        return self._seen.total() - len(self._seen)

    def complaints(self) -> list[str]:
        """What is not as it should be, a phrase each; empty if every frame has its outcome, once, in order."""
        counts = {
            "lost": self.lost,
            "duplicated": self.duplicates,
            "out of order": self.out_of_order,
            "outcomes of frames nobody sent": self.unexpected,
            "good frames in the dead letters": len(self.refused_good),
            "bad frames predicted on": len(self.passed_bad),
        }
        return [f"{count} {what}" for what, count in counts.items() if count]
