"""Summaries: what they count, and that merging them in any order gives the summary of all values at once."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worker.statistics.summary import (
    FEATURE_LAYOUTS,
    LATENCY_LAYOUT,
    SCORE_LAYOUT,
    Layout,
    distribution,
    edges,
    empty,
    merge,
    merge_distributions,
)
from worker.summaries import Distribution, StreamSummary

LAYOUTS = [*FEATURE_LAYOUTS.values(), SCORE_LAYOUT, LATENCY_LAYOUT]
values = arrays.arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 2**20, width=32))


def assert_same(one: Distribution, other: Distribution) -> None:
    """Counts, range and histogram exactly; mean and squared deviations to rounding."""
    assert one.histogram == other.histogram
    assert (one.moments.n, one.moments.min, one.moments.max) == (other.moments.n, other.moments.min, other.moments.max)
    scale = max(abs(one.moments.max or 0), 1)
    assert one.moments.mean == pytest.approx(other.moments.mean, rel=1e-9, abs=1e-9 * scale)
    assert one.moments.m2 == pytest.approx(other.moments.m2, rel=1e-9, abs=1e-9 * scale**2)


@given(values, st.sampled_from(LAYOUTS))
def test_a_distribution_counts_every_value_once_between_the_right_edges(data: Any, layout: Layout) -> None:
    summary = distribution(data, layout)
    assert summary.moments.n == len(data) == sum(summary.histogram.counts)
    bounds = [-np.inf, *edges(layout).tolist(), np.inf]
    for index, count in enumerate(summary.histogram.counts):
        low, high = bounds[index], bounds[index + 1]
        inside = [value for value in data.astype(float) if low <= value < high]
        if index == layout.bins:
            inside += [value for value in data.astype(float) if value == high]
        if index == layout.bins + 1:
            inside = [value for value in inside if value != low]
        assert count == len(inside)


@given(values)
def test_moments_are_numpys_mean_and_squared_deviations(data: Any) -> None:
    moments = distribution(data, SCORE_LAYOUT).moments
    if len(data) == 0:
        assert (moments.mean, moments.m2, moments.min, moments.max) == (0, 0, None, None)
        return
    numbers = data.astype(np.float64)
    assert moments.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert moments.m2 / moments.n == pytest.approx(numbers.var(), rel=1e-9, abs=1e-12)
    assert (moments.min, moments.max) == (numbers.min(), numbers.max())


@given(values, values, st.sampled_from(LAYOUTS))
def test_merging_commutes_and_equals_the_distribution_of_all_values(one: Any, other: Any, layout: Layout) -> None:
    left, right = distribution(one, layout), distribution(other, layout)
    assert merge_distributions(left, right) == merge_distributions(right, left)
    assert_same(merge_distributions(left, right), distribution(np.concatenate([one, other]), layout))


@given(values, values, values, st.sampled_from(LAYOUTS))
def test_merging_is_associative_and_the_empty_distribution_is_neutral(
    one: Any, two: Any, three: Any, layout: Layout
) -> None:
    a, b, c = (distribution(data, layout) for data in (one, two, three))
    assert_same(
        merge_distributions(merge_distributions(a, b), c),
        merge_distributions(a, merge_distributions(b, c)),
    )
    assert merge_distributions(a, empty(layout)) == a == merge_distributions(empty(layout), a)


def test_histograms_of_different_edges_are_not_merged() -> None:
    with pytest.raises(ValueError, match="different edges"):
        merge_distributions(empty(SCORE_LAYOUT), empty(LATENCY_LAYOUT))


def test_the_deviation_of_large_close_values_survives_many_merges() -> None:
    pieces = [distribution(np.array([1e6, 1e6 + 1]), LATENCY_LAYOUT) for _ in range(1000)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = merge_distributions(total, piece)
    assert total.moments.n == 2000
    assert total.moments.m2 / total.moments.n == pytest.approx(0.25, rel=1e-6)


def stream(scores: Any, dead: dict[str, int], classes: dict[int, int]) -> StreamSummary:
    return StreamSummary(
        frames=len(scores) + sum(dead.values()),
        predicted=len(scores),
        dead_lettered=dead,
        latency_s=distribution(scores, LATENCY_LAYOUT),
        clamped_latencies=1,
        features={name: distribution(scores, layout) for name, layout in FEATURE_LAYOUTS.items()},
        classes=classes,
        confidence=distribution(scores, SCORE_LAYOUT),
    )


def test_stream_summaries_merge_every_part() -> None:
    one = stream(np.array([0.25, 0.5]), {"empty": 1}, {3: 2})
    other = stream(np.array([0.75]), {"empty": 2, "corrupt": 1}, {3: 1, 900: 1})
    merged = merge(one, other)
    assert merged == merge(other, one)
    assert (merged.frames, merged.predicted, merged.clamped_latencies) == (7, 3, 2)
    assert merged.dead_lettered == {"empty": 3, "corrupt": 1}
    assert merged.classes == {3: 3, 900: 1}
    assert merged.confidence.moments.mean == 0.5
    assert merged.features["sharpness"].histogram.counts[0] == 3


def test_summaries_of_different_features_are_not_merged() -> None:
    one = stream(np.array([0.5]), {}, {})
    other = msgspec.structs.replace(one, features={"colour": one.features["contrast"]})
    with pytest.raises(ValueError, match="different features"):
        merge(one, other)


def test_a_stream_summary_goes_to_json_and_back_unchanged() -> None:
    summary = stream(np.array([0.25, 0.5]), {"empty": 1}, {3: 2})
    assert msgspec.json.decode(msgspec.json.encode(summary), type=StreamSummary) == summary
    nothing = stream(np.array([]), {}, {})
    assert msgspec.json.decode(msgspec.json.encode(nothing), type=StreamSummary) == nothing
