"""Keeps the numbers of one source partition's frames until their range is committed, then summarises it by stream.

Rows come a batch at a time, in any order of batches; `cut` takes a half-open range of offsets out. Pure: no clock, no
lock; one thread (the publisher's) owns it. What it holds is bounded by what waits for a commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from worker.frames import AnyArray, Float32Array, Reason
from worker.statistics.features import FEATURES
from worker.statistics.summary import (
    FEATURE_LAYOUTS,
    LATENCY_LAYOUT,
    SCORE_LAYOUT,
    IntArray,
    distributions,
    empty,
)
from worker.summaries import Distribution, StreamSummary

Stream = str | None


@dataclass(frozen=True, slots=True)
class Cut:
    """Summaries of a range by stream, and the Unix seconds of its first and last outcome (None if it had none)."""

    streams: dict[Stream, StreamSummary]
    window: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Predicted frames of one batch: arrays of one length n. `top_index` and `top_score` are None without classes."""

    offsets: npt.NDArray[np.int64]
    streams: Sequence[Stream]
    features: Float32Array
    latency_s: Float32Array
    top_index: AnyArray | None
    top_score: Float32Array | None
    now: float

    def where(self, mask: npt.NDArray[np.bool_]) -> _Rows:
        return _Rows(
            self.offsets[mask],
            [stream for stream, kept in zip(self.streams, mask.tolist(), strict=True) if kept],
            self.features[mask],
            self.latency_s[mask],
            None if self.top_index is None else self.top_index[mask],
            None if self.top_score is None else self.top_score[mask],
            self.now,
        )


@dataclass(frozen=True, slots=True)
class _Rejected:
    offset: int
    stream: Stream
    reason: Reason
    now: float


@dataclass(slots=True)
class _Parts:
    """What `cut` gathers of one stream before its summary is made."""

    rejected: Counter[str] = field(default_factory=Counter)
    predicted: int = 0
    clamped: int = 0
    latency: Distribution = field(default_factory=lambda: empty(LATENCY_LAYOUT))
    features: dict[str, Distribution] = field(
        default_factory=lambda: {name: empty(FEATURE_LAYOUTS[name]) for name in FEATURES}
    )
    classes: dict[int, int] = field(default_factory=dict)
    confidence: Distribution = field(default_factory=lambda: empty(SCORE_LAYOUT))


class Collector:
    """Of one source partition."""

    def __init__(self) -> None:
        self._rows: list[_Rows] = []
        self._rejected: list[_Rejected] = []

    def add(
        self,
        offsets: Sequence[int],
        streams: Sequence[Stream],
        features: Float32Array,
        latency_s: Float32Array,
        now: float,
        top: tuple[AnyArray, Float32Array] | None = None,
    ) -> None:
        """The predicted frames of one batch in this partition: n offsets and streams, `features` (n, 3), `latency_s` (n,).

        `top` is the index and score of each frame's best class, (n,) each: always given, or never, as the model has
        classes or not. Index -1 counts for no class: a frame in which nothing was detected, with the score 0. `now` in Unix
        seconds. The arrays are kept, not copied. Negative latencies count as 0.
        """
        if len(offsets):
            index, score = (None, None) if top is None else top
            self._rows.append(
                _Rows(np.asarray(offsets, np.int64), streams, features, latency_s, index, score, now),
            )

    def reject(self, offset: int, stream: Stream, reason: Reason, now: float) -> None:
        """A frame that became a dead letter."""
        self._rejected.append(_Rejected(offset, stream, reason, now))

    def cut(self, start: int, end: int) -> Cut:
        """Take out the frames with start <= offset < end and summarise them by stream.

        Frames below `start` belong to a range already recorded; they are dropped, so that nothing counts twice.
        """
        taken: list[_Rows] = []
        kept: list[_Rows] = []
        for rows in self._rows:
            below = rows.offsets < end
            inside = below & (rows.offsets >= start)
            if inside.any():
                taken.append(rows if inside.all() else rows.where(inside))
            if not below.all():
                kept.append(rows.where(~below) if below.any() else rows)
        rejected = [frame for frame in self._rejected if start <= frame.offset < end]
        self._rows = kept
        self._rejected = [frame for frame in self._rejected if frame.offset >= end]

        parts: dict[Stream, _Parts] = {}
        if taken:
            _summarise(taken, parts)
        for frame in rejected:
            parts.setdefault(frame.stream, _Parts()).rejected[str(frame.reason)] += 1
        times = [frame.now for frame in rejected] + [rows.now for rows in taken]
        return Cut(
            streams={stream: _summary(part) for stream, part in parts.items()},
            window=(min(times), max(times)) if times else None,
        )

    def drop(self, from_offset: int) -> None:
        """Forget the frames at and above `from_offset`: the partition was rewound there and they will come again."""
        masks = [(rows, rows.offsets < from_offset) for rows in self._rows]
        self._rows = [rows if mask.all() else rows.where(mask) for rows, mask in masks if mask.any()]
        self._rejected = [frame for frame in self._rejected if frame.offset < from_offset]

    def forget(self) -> None:
        """The partition was taken away: what is not committed is another worker's."""
        self._rows.clear()
        self._rejected.clear()


def _summarise(taken: list[_Rows], parts: dict[Stream, _Parts]) -> None:
    """Fill `parts` with what was predicted: rows are sorted by stream once, then each quantity is done for all streams."""
    codes: dict[Stream, int] = {}
    code = np.array([codes.setdefault(stream, len(codes)) for rows in taken for stream in rows.streams], np.intp)
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code)
    starts: IntArray = np.cumsum(sizes) - sizes
    latency = np.concatenate([rows.latency_s for rows in taken])[order]
    clamped = np.add.reduceat((latency < 0).astype(np.intp), starts).tolist()
    latencies = distributions(np.maximum(latency, 0), starts, LATENCY_LAYOUT)
    columns = np.concatenate([rows.features for rows in taken])[order]
    by_feature = [
        distributions(columns[:, column], starts, FEATURE_LAYOUTS[name]) for column, name in enumerate(FEATURES)
    ]
    for stream, group in codes.items():
        parts[stream] = _Parts(
            predicted=int(sizes[group]),
            clamped=clamped[group],
            latency=latencies[group],
            features={name: by_feature[column][group] for column, name in enumerate(FEATURES)},
        )
    indices = [rows.top_index for rows in taken if rows.top_index is not None]
    scores = [rows.top_score for rows in taken if rows.top_score is not None]
    if not indices:
        return
    groups = [parts[stream] for stream in codes]
    for part, confidence in zip(
        groups, distributions(np.concatenate(scores)[order], starts, SCORE_LAYOUT), strict=True
    ):
        part.confidence = confidence
    index = np.concatenate(indices).astype(np.intp)
    span = int(index.max()) + 1
    keys, counts = np.unique((code * span + index)[index >= 0], return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        groups[key // span].classes[key % span] = count


def _summary(part: _Parts) -> StreamSummary:
    return StreamSummary(
        frames=part.predicted + part.rejected.total(),
        predicted=part.predicted,
        dead_lettered=dict(part.rejected),
        latency_s=part.latency,
        clamped_latencies=part.clamped,
        features=part.features,
        classes=part.classes,
        confidence=part.confidence,
    )
