"""What the statistics records carry: summaries of many frames that can be merged with those of other ranges.

Pure shapes, no arithmetic: `worker.statistics` makes and merges them, `worker.records` puts them on the topic. All
values are finite, so they go to JSON as they are.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the summaries: immutable, compared by value."""


class Moments(Summary, frozen=True):
    """Count, mean, sum of squared deviations from the mean, and range. Variance is m2 / n; min and max are null at n = 0."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    min: float | None = None
    max: float | None = None


class Histogram(Summary, frozen=True):
    """Counts of values between fixed edges.

    `counts[0]` holds values below `low`, `counts[-1]` those above `high`; the bins between split [low, high] evenly, in
    the values themselves (`linear`) or in their logarithms (`log`). A bin includes its lower edge, the last one both.
    """

    low: float
    high: float
    scale: Literal["linear", "log"]
    counts: tuple[int, ...]


class Distribution(Summary, frozen=True):
    """One quantity over many frames."""

    moments: Moments
    histogram: Histogram


class StreamSummary(Summary, frozen=True):
    """What one stream did in one range of offsets.

    `frames` is predicted + dead-lettered, `dead_lettered` by reason, `classes` by index of the best class,
    `latency_s` the seconds from capture to prediction, and `clamped_latencies` how many of them came out negative and
    count as 0. `features` are of the model-input grid, by name; `confidence` is the best class's score, 0..1. A
    detector's best class is that of its best detection; a frame without one counts for no class, with the confidence 0.
    """

    frames: int
    predicted: int
    dead_lettered: dict[str, int]
    latency_s: Distribution
    clamped_latencies: int
    features: dict[str, Distribution]
    classes: dict[int, int]
    confidence: Distribution
