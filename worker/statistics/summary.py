"""Makes and merges the summaries of `worker.summaries`. Pure.

Merging is commutative and associative: exactly for counts, ranges and histograms, to rounding for means and squared
deviations. So records of any ranges can be added up in any order, by the worker or by whoever reads the topic.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from worker.summaries import Distribution, Histogram, Moments, StreamSummary

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


class Layout(NamedTuple):
    """Fixed edges of a histogram: `bins` between `low` and `high`, even in the values or in their logarithms."""

    low: float
    high: float
    bins: int
    scale: Literal["linear", "log"] = "linear"


# Fixed for v1: histograms of different edges can't be merged. Reasons for the numbers:
FEATURE_LAYOUTS = {
    # 8 grey levels: wider than sensor noise and auto-exposure's hunting, narrower than a shift that changes predictions.
    "brightness": Layout(0, 256, 32),
    # A standard deviation of grey levels is at most 127.5; 4 levels for the same reason.
    "contrast": Layout(0, 128, 32),
    # Spans six decades from a blank wall to noise (at most 1020 squared): half octaves.
    "sharpness": Layout(1, 2**20, 40, "log"),
}
SCORE_LAYOUT = Layout(0, 1, 20)
# Half octaves from 1 ms to 17 min: a quantile is good to 19 %, and a backlog after an outage is still told from a stall.
LATENCY_LAYOUT = Layout(2**-10, 2**10, 40, "log")


@cache
def edges(layout: Layout) -> Float64Array:
    """(bins + 1,) ascending, from `low` to `high`; read-only."""
    space = np.geomspace if layout.scale == "log" else np.linspace
    bounds = np.asarray(space(layout.low, layout.high, layout.bins + 1), dtype=np.float64)
    bounds.flags.writeable = False
    return bounds


def layout_of(histogram: Histogram) -> Layout:
    """The edges a histogram was made with."""
    return Layout(histogram.low, histogram.high, len(histogram.counts) - 2, histogram.scale)


def empty(layout: Layout) -> Distribution:
    """Of no values: the neutral element of `merge_distributions`."""
    return _distribution(Moments(), layout, [0] * (layout.bins + 2))


def distributions(values: npt.NDArray[Any], starts: IntArray, layout: Layout) -> list[Distribution]:
    """One Distribution a group. `values` (n,) finite, group after group; `starts` (g,) ascending, where each begins.

    The first group begins at 0 and none is empty. All groups at once: a partition may carry hundreds of streams.
    """
    numbers = values.astype(np.float64)
    sizes = np.diff(starts, append=len(numbers))
    means = np.add.reduceat(numbers, starts) / sizes
    deviations = np.add.reduceat((numbers - np.repeat(means, sizes)) ** 2, starts)
    least, most = np.minimum.reduceat(numbers, starts), np.maximum.reduceat(numbers, starts)

    width = layout.bins + 2
    bins = np.searchsorted(edges(layout), numbers, side="right")
    bins[numbers == layout.high] = layout.bins
    group = np.repeat(np.arange(len(starts)), sizes)
    counts = np.bincount(group * width + bins, minlength=len(starts) * width).reshape(len(starts), width)
    rows = zip(
        sizes.tolist(), means.tolist(), deviations.tolist(), least.tolist(), most.tolist(), counts.tolist(), strict=True
    )
    return [
        _distribution(Moments(n=n, mean=mean, m2=m2, min=low, max=high), layout, row)
        for n, mean, m2, low, high, row in rows
    ]


def distribution(values: npt.NDArray[Any], layout: Layout) -> Distribution:
    """Of all `values` (n,), finite."""
    return distributions(values, np.zeros(1, np.intp), layout)[0] if len(values) else empty(layout)


def merge_moments(one: Moments, other: Moments) -> Moments:
    """Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979)."""
    if one.n == 0 or other.n == 0:
        return other if one.n == 0 else one
    n = one.n + other.n
    # Symmetric in its arguments, so that merging commutes to the last bit.
    mean = (one.n * one.mean + other.n * other.mean) / n
    m2 = (one.m2 + other.m2) + (other.mean - one.mean) ** 2 * (one.n * other.n / n)
    lows = [value for value in (one.min, other.min) if value is not None]
    highs = [value for value in (one.max, other.max) if value is not None]
    return Moments(n=n, mean=mean, m2=m2, min=min(lows, default=None), max=max(highs, default=None))


def merge_histograms(one: Histogram, other: Histogram) -> Histogram:
    """Raises ValueError if their edges differ."""
    if layout_of(one) != layout_of(other):
        raise ValueError(f"histograms of different edges can't be merged: {layout_of(one)} and {layout_of(other)}")
    counts = tuple(left + right for left, right in zip(one.counts, other.counts, strict=True))
    return Histogram(low=one.low, high=one.high, scale=one.scale, counts=counts)


def merge_distributions(one: Distribution, other: Distribution) -> Distribution:
    """Raises ValueError if their edges differ."""
    return Distribution(
        moments=merge_moments(one.moments, other.moments),
        histogram=merge_histograms(one.histogram, other.histogram),
    )


def merge(one: StreamSummary, other: StreamSummary) -> StreamSummary:
    """Of disjoint ranges, or of two streams. Raises ValueError if they hold different features or edges."""
    if one.features.keys() != other.features.keys():
        raise ValueError(f"summaries of different features can't be merged: {[*one.features]} and {[*other.features]}")
    return StreamSummary(
        frames=one.frames + other.frames,
        predicted=one.predicted + other.predicted,
        dead_lettered=dict(Counter(one.dead_lettered) + Counter(other.dead_lettered)),
        latency_s=merge_distributions(one.latency_s, other.latency_s),
        clamped_latencies=one.clamped_latencies + other.clamped_latencies,
        features={name: merge_distributions(one.features[name], other.features[name]) for name in one.features},
        classes=dict(Counter(one.classes) + Counter(other.classes)),
        confidence=merge_distributions(one.confidence, other.confidence),
    )


def _distribution(moments: Moments, layout: Layout, counts: list[int]) -> Distribution:
    histogram = Histogram(low=layout.low, high=layout.high, scale=layout.scale, counts=tuple(counts))
    return Distribution(moments=moments, histogram=histogram)
