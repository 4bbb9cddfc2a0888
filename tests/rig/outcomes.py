"""What became of the frames that were sent: the comparison behind every claim of "nothing lost", without any I/O.

In go the frames as the broker acknowledged them and the records found on the worker's output topics; out comes an
`Audit`. It shares no code with the worker.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_NAMED = 5  # ids named in a sentence; more would bury it


class SentFrame(NamedTuple):
    """One frame as the broker acknowledged it."""

    partition: int
    offset: int
    key: bytes | None


class Outcome(NamedTuple):
    """One record on an output topic: `id` names its source (`topic/partition/offset`), the rest is its own place."""

    id: str
    partition: int
    offset: int
    key: bytes | None


class StatisticsRange(NamedTuple):
    """One record on the statistics topic: it counts `frames` frames in the half-open range [start, end) of a source
    partition; `generation` and `offset` (its own, on the statistics topic) say which of two records counts."""

    source_partition: int
    start: int
    end: int
    frames: int
    generation: int
    offset: int


@dataclass(frozen=True, slots=True)
class Audit:
    """`predicted` and `dead_lettered` count distinct ids. `str()` of it is a line for people."""

    sent: int
    predicted: int
    dead_lettered: int
    lost_ids: tuple[str, ...]  # sent, and found nowhere
    duplicates_raw: int  # records beyond the first of their id, on both topics together
    duplicate_ids: tuple[str, ...]  # ids with more than one record
    both_ids: tuple[str, ...]  # predicted and dead-lettered
    unknown_ids: tuple[str, ...]  # found, and never sent
    out_of_order_ids: tuple[str, ...]  # predictions behind a later one of their source partition and key
    changed_key_ids: tuple[str, ...]  # predictions and dead letters that do not carry the key of their frame

    @property
    def lost(self) -> int:
        return len(self.lost_ids)

    @property
    def duplicates(self) -> int:
        return len(self.duplicate_ids)

    @property
    def out_of_order(self) -> int:
        return len(self.out_of_order_ids)

    @property
    def problems(self) -> list[str]:
        """A phrase for each kind of thing that is wrong, with the first ids; empty if each frame has one outcome in order."""
        kinds = {
            "lost": self.lost_ids,
            "duplicate": self.duplicate_ids,
            "predicted and dead-lettered": self.both_ids,
            "never sent": self.unknown_ids,
            "out of order": self.out_of_order_ids,
            "with another key": self.changed_key_ids,
        }
        return [f"{len(ids)} {kind} ({', '.join(ids[:_NAMED])})" for kind, ids in kinds.items() if ids]

    def __str__(self) -> str:
        verdict = "; ".join(self.problems) or "each once and in order"
        return f"{self.sent} sent, {self.predicted} predicted, {self.dead_lettered} dead-lettered: {verdict}"


def compare(
    topic: str, sent: Iterable[SentFrame], predictions: Sequence[Outcome], dead_letters: Sequence[Outcome]
) -> Audit:
    """`topic` is the frames topic. Records may come in any order; their own partitions and offsets say how they lie."""
    keys = {f"{topic}/{frame.partition}/{frame.offset}": frame.key for frame in sent}
    predicted = {record.id for record in predictions}
    dead = {record.id for record in dead_letters}
    found = [*predictions, *dead_letters]
    counts = Counter(record.id for record in found)
    return Audit(
        sent=len(keys),
        predicted=len(predicted),
        dead_lettered=len(dead),
        lost_ids=tuple(id_ for id_ in keys if id_ not in counts),
        duplicates_raw=len(found) - len(counts),
        duplicate_ids=tuple(id_ for id_, count in counts.items() if count > 1),
        both_ids=tuple(sorted(predicted & dead)),
        unknown_ids=tuple(id_ for id_ in counts if id_ not in keys),
        out_of_order_ids=_out_of_order(predictions),
        changed_key_ids=tuple({r.id: None for r in found if r.id in keys and r.key != keys[r.id]}),
    )


def _out_of_order(predictions: Iterable[Outcome]) -> tuple[str, ...]:
    """Ids that come behind a later frame of their source partition and key, or lie where no order with it exists.

    Of a repeated id only the first occurrence counts: a replay goes back on purpose.
    """
    latest: dict[tuple[str, bytes | None], tuple[int, int]] = {}  # -> output partition, highest source offset
    seen: set[str] = set()
    wrong = []
    for record in sorted(predictions, key=lambda record: (record.partition, record.offset)):
        if record.id in seen:
            continue
        seen.add(record.id)
        source, offset_text = record.id.rsplit("/", 1)
        offset = int(offset_text)
        partition, highest = latest.setdefault((source, record.key), (record.partition, offset))
        if partition != record.partition or offset < highest:
            wrong.append(record.id)
        else:
            latest[source, record.key] = (partition, offset)
    return tuple(wrong)


@dataclass(frozen=True, slots=True)
class StatisticsAudit:
    """`counted` frames stand in the records that are left when later ones have replaced those they overlap."""

    sent: int
    counted: int
    uncovered_ids: tuple[str, ...]  # sent, and in the range of no record that is left


def compare_statistics(topic: str, sent: Iterable[SentFrame], records: Iterable[StatisticsRange]) -> StatisticsAudit:
    """Apply the contract's rule: in the order (generation, offset) a later record replaces every one it overlaps."""
    left: dict[int, list[StatisticsRange]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.generation, record.offset)):
        apart = [
            other for other in left[record.source_partition] if other.end <= record.start or other.start >= record.end
        ]
        left[record.source_partition] = [*apart, record]
    frames = list(sent)
    uncovered = [frame for frame in frames if not any(r.start <= frame.offset < r.end for r in left[frame.partition])]
    return StatisticsAudit(
        sent=len(frames),
        counted=sum(record.frames for records_left in left.values() for record in records_left),
        uncovered_ids=tuple(f"{topic}/{frame.partition}/{frame.offset}" for frame in uncovered),
    )
