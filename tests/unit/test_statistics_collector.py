"""The collector of one source partition: ranges, streams, rewinds."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.frames import Float32Array, Reason
from worker.statistics import Collector
from worker.statistics.collector import Stream


def rows(offsets: list[int]) -> tuple[Float32Array, Float32Array]:
    """Features and latency that tell the offset."""
    numbers = np.array(offsets, np.float32)
    features = np.stack([numbers, numbers / 10, numbers + 1], axis=1)
    return features, np.asarray(numbers / 1000, np.float32)


def add(
    collector: Collector, offsets: list[int], streams: list[Stream], now: float = 1.0, classes: bool = True
) -> None:
    features, latency = rows(offsets)
    top = (np.array(offsets) % 7, latency) if classes else None
    collector.add(offsets, streams, features, latency, now, top)


def test_a_cut_summarises_its_half_open_range_by_stream_and_leaves_the_rest() -> None:
    collector = Collector()
    add(collector, [10, 11, 12, 13], ["a", "b", "a", None], now=5.0)
    add(collector, [14, 16], ["a", "b"], now=6.0)
    collector.reject(15, "b", Reason.CORRUPT, now=7.0)

    first = collector.cut(10, 14)
    assert first.window == (5.0, 5.0)
    assert list(first.streams) == ["a", "b", None]
    a = first.streams["a"]
    assert (a.frames, a.predicted, a.dead_lettered) == (2, 2, {})
    assert (a.features["brightness"].moments.min, a.features["brightness"].moments.max) == (10, 12)
    assert a.features["contrast"].moments.mean == pytest.approx(1.1)
    assert a.latency_s.moments.max == pytest.approx(0.012)
    assert a.classes == {3: 1, 5: 1}
    assert a.confidence.moments.mean == pytest.approx(0.011)

    second = collector.cut(14, 17)
    assert second.window == (6.0, 7.0)
    assert second.streams["b"].frames == 2
    assert second.streams["b"].dead_lettered == {"corrupt": 1}
    assert collector.cut(17, 100).streams == {}
    assert collector.cut(17, 100).window is None


def test_a_frame_without_a_class_counts_for_none_and_its_score_for_the_confidence() -> None:
    collector = Collector()
    features, latency = rows([0, 1, 2, 3])
    top = (np.array([-1, 0, -1, 2]), np.array([0, 0.8, 0, 0.4], np.float32))
    collector.add([0, 1, 2, 3], ["a", "a", "b", "a"], features, latency, 1.0, top)
    streams = collector.cut(0, 4).streams
    assert (streams["a"].predicted, streams["a"].classes) == (3, {0: 1, 2: 1})
    assert (streams["b"].predicted, streams["b"].classes) == (1, {})
    assert streams["a"].confidence.moments.mean == pytest.approx(0.4)
    assert streams["b"].confidence.moments.max == 0


def test_a_range_in_which_nothing_was_found_has_no_classes() -> None:
    collector = Collector()
    features, latency = rows([0, 1])
    collector.add([0, 1], ["a", "a"], features, latency, 1.0, (np.array([-1, -1]), np.zeros(2, np.float32)))
    assert collector.cut(0, 2).streams["a"].classes == {}


def test_a_stream_with_nothing_but_dead_letters_has_empty_distributions() -> None:
    collector = Collector()
    collector.reject(3, "cam", Reason.EMPTY, now=1.0)
    collector.reject(4, "cam", Reason.EMPTY, now=2.0)
    cut = collector.cut(0, 5)
    assert cut.window == (1.0, 2.0)
    summary = cut.streams["cam"]
    assert (summary.frames, summary.predicted, summary.dead_lettered) == (2, 0, {"empty": 2})
    assert summary.features["sharpness"].moments.n == summary.latency_s.moments.n == summary.confidence.moments.n == 0


def test_a_model_without_classes_has_features_and_latency_but_no_confidence() -> None:
    collector = Collector()
    add(collector, [1, 2], ["cam", "cam"], classes=False)
    summary = collector.cut(0, 3).streams["cam"]
    assert summary.predicted == summary.features["brightness"].moments.n == 2
    assert summary.classes == {}
    assert summary.confidence.moments.n == 0


def test_negative_latencies_count_as_zero_and_are_counted() -> None:
    collector = Collector()
    features, _ = rows([1, 2, 3])
    collector.add([1, 2, 3], ["a", "a", "b"], features, np.array([-1, 2, -3], np.float32), 0.0)
    cut = collector.cut(0, 4).streams
    assert (cut["a"].clamped_latencies, cut["b"].clamped_latencies) == (1, 1)
    assert (cut["a"].latency_s.moments.min, cut["a"].latency_s.moments.mean) == (0, 1)


def test_a_rewind_forgets_what_will_come_again() -> None:
    collector = Collector()
    add(collector, [1, 2, 3, 4], ["a"] * 4)
    collector.reject(5, "a", Reason.EMPTY, now=1.0)
    collector.drop(3)
    add(collector, [3, 4], ["a"] * 2)
    summary = collector.cut(0, 10).streams["a"]
    assert (summary.frames, summary.predicted) == (4, 4)


def test_a_partition_taken_away_leaves_nothing_behind() -> None:
    collector = Collector()
    add(collector, [1, 2], ["a", "b"])
    collector.reject(3, "a", Reason.EMPTY, now=1.0)
    collector.forget()
    assert collector.cut(0, 10).streams == {}


def test_frames_below_the_range_are_dropped_and_never_counted_later() -> None:
    collector = Collector()
    add(collector, [1, 2, 8], ["a"] * 3)
    assert collector.cut(5, 10).streams["a"].frames == 1
    assert collector.cut(0, 10).streams == {}


frames = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.booleans()),
    min_size=1,
    max_size=40,
)


@given(frames, st.lists(st.integers(0, 40), max_size=5), st.integers(1, 7), st.randoms(use_true_random=False))
def test_consecutive_ranges_count_each_frame_once_whatever_the_batches_and_their_order(
    outcomes: list[tuple[str | None, bool]], cuts: list[int], batch: int, random: Random
) -> None:
    collector = Collector()
    offsets = list(range(len(outcomes)))
    random.shuffle(offsets)
    for first in range(0, len(offsets), batch):
        chunk = offsets[first : first + batch]
        good = [offset for offset in chunk if outcomes[offset][1]]
        add(collector, good, [outcomes[offset][0] for offset in good])
        for offset in chunk:
            if not outcomes[offset][1]:
                collector.reject(offset, outcomes[offset][0], Reason.CORRUPT, now=1.0)

    seen: Counter[str | None] = Counter()
    predicted: Counter[str | None] = Counter()
    classes: Counter[tuple[str | None, int]] = Counter()
    bounds = sorted({0, *cuts, len(outcomes)})
    for start, end in pairwise(bounds):
        for stream, summary in collector.cut(start, end).streams.items():
            seen[stream] += summary.frames
            predicted[stream] += summary.predicted
            assert summary.confidence.moments.n == sum(summary.confidence.histogram.counts) == summary.predicted
            for index, count in summary.classes.items():
                classes[stream, index] += count
    assert seen == Counter(stream for stream, _ in outcomes)
    assert predicted == Counter(stream for stream, good in outcomes if good)
    assert classes == Counter((stream, offset % 7) for offset, (stream, good) in enumerate(outcomes) if good)
