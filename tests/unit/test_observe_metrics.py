"""Metrics: what the contract names is there from the start, and sums are those of the events."""

from __future__ import annotations

import threading

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from worker.frames import ModelIdentity, Reason, SourcePartition, Stage
from worker.infer.breaker import State
from worker.observe.buckets import STAGE_BUCKETS_S
from worker.observe.histogram import HistogramCollector
from worker.observe.metrics import Metrics, Rebalance, RequestOutcome

Series = tuple[str, tuple[tuple[str, str], ...]]


def _scrape(metrics: Metrics) -> dict[Series, float]:
    text = prometheus_client.generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_series_known_beforehand_is_zero_before_anything_happened() -> None:
    samples = _scrape(Metrics(endpoints=["localhost:8001"]))
    expected: list[Series] = [("headrace_frames_received_total", ()), ("headrace_frames_in_flight", ())]
    expected += [
        ("headrace_bytes_in_flight", ()),
        ("headrace_retries_total", ()),
        ("headrace_frames_skipped_total", ()),
    ]
    expected += [("headrace_frames_dead_lettered_total", (("reason", str(reason)),)) for reason in Reason]
    expected += [("headrace_frames_predicted_total", (("served_by", name),)) for name in ("primary", "fallback")]
    expected += [("headrace_stage_duration_seconds_count", (("stage", str(stage)),)) for stage in Stage]
    expected += [("headrace_end_to_end_seconds_count", ()), ("headrace_batch_size_count", ())]
    expected += [("headrace_rebalances_total", (("kind", str(kind)),)) for kind in Rebalance]
    expected += [("headrace_breaker_state", (("endpoint", "localhost:8001"),))]
    expected += [
        ("headrace_infer_requests_total", (("endpoint", "localhost:8001"), ("outcome", str(outcome))))
        for outcome in RequestOutcome
    ]
    assert {key: samples.get(key) for key in expected} == dict.fromkeys(expected, 0.0)


def test_no_created_series_double_the_counters() -> None:
    assert not [name for name, _ in _scrape(Metrics()) if name.endswith("_created")]


def test_a_batch_counts_its_predictions_dead_letters_and_times() -> None:
    metrics = Metrics()
    metrics.frames_received(5)
    metrics.predicted(3)
    metrics.predicted(1, "fallback")
    metrics.dead_lettered({Reason.TRUNCATED: 1})
    metrics.stage(Stage.DECODE, [0.001, 0.002, 0.02])
    metrics.batch(4)
    assert metrics.value("frames_received_total") == 5
    assert metrics.value("frames_predicted_total", {"served_by": "primary"}) == 3
    assert metrics.value("frames_predicted_total", {"served_by": "fallback"}) == 1
    assert metrics.value("frames_dead_lettered_total", {"reason": "truncated"}) == 1
    assert metrics.value("stage_duration_seconds_bucket", {"stage": "decode", "le": "0.0025"}) == 2
    assert metrics.value("stage_duration_seconds_sum", {"stage": "decode"}) == pytest.approx(0.023)
    assert metrics.value("batch_size_bucket", {"le": "4.0"}) == 1
    assert metrics.value("batch_size_bucket", {"le": "2.0"}) == 0
    assert metrics.value("batches_total") == 1


def test_a_negative_latency_counts_as_zero_and_is_counted() -> None:
    metrics = Metrics()
    metrics.end_to_end([-3.0, 0.2])
    assert metrics.value("negative_latencies_total") == 1
    assert metrics.value("end_to_end_seconds_count") == 2
    assert metrics.value("end_to_end_seconds_sum") == pytest.approx(0.2)


def test_lag_of_a_partition_that_went_elsewhere_disappears() -> None:
    metrics = Metrics()
    metrics.lag({SourcePartition("frames", 0): 7, SourcePartition("frames", 1): 2})
    metrics.lag({SourcePartition("frames", 1): 0})
    assert metrics.value("consumer_lag", {"topic": "frames", "partition": "0"}) is None
    assert metrics.value("consumer_lag", {"topic": "frames", "partition": "1"}) == 0


def test_only_the_model_that_serves_has_a_model_info_series() -> None:
    metrics = Metrics()
    for version in ("1", "2", "2"):
        metrics.model(ModelIdentity("lite2", version, f"sha256:{version}", "onnxruntime", "fp32"))
    assert metrics.value("model_info", {"name": "lite2", "version": "1", "digest": "sha256:1"}) is None
    assert metrics.value("model_info", {"name": "lite2", "version": "2", "digest": "sha256:2"}) == 1


def test_quarantine_shows_how_many_wait_and_how_many_ever_did() -> None:
    metrics = Metrics()
    metrics.slots_quarantined(2, added=2)
    metrics.slots_quarantined(0)
    assert metrics.value("slots_in_quarantine") == 0
    assert metrics.value("slots_quarantined_total") == 2


def test_the_breaker_shows_its_state_for_each_endpoint() -> None:
    metrics = Metrics(["a", "b"])
    metrics.breaker("a", State.OPEN)
    assert metrics.value("breaker_state", {"endpoint": "a"}) == 2
    assert metrics.value("breaker_state", {"endpoint": "b"}) == 0


@given(st.lists(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(STAGE_BUCKETS_S)), max_size=20), max_size=6))
def test_histogram_of_lists_equals_the_librarys_histogram_of_single_observations(lists: list[list[float]]) -> None:
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("theirs", "one by one", buckets=STAGE_BUCKETS_S, registry=registry)
    ours = HistogramCollector("ours", "by lists", STAGE_BUCKETS_S)
    registry.register(ours)
    for values in lists:
        ours.observe(values)
        for value in values:
            theirs.observe(value)
    for bound in [*(str(bound) for bound in STAGE_BUCKETS_S), "+Inf"]:
        got = registry.get_sample_value("ours_bucket", {"le": bound})
        assert got is not None
        assert got == registry.get_sample_value("theirs_bucket", {"le": bound})
    assert registry.get_sample_value("ours_count") == registry.get_sample_value("theirs_count")
    assert registry.get_sample_value("ours_sum") == pytest.approx(registry.get_sample_value("theirs_sum"))


def test_observations_from_many_threads_are_all_counted() -> None:
    histogram = HistogramCollector("h", "threads", (1.0,))
    registry = prometheus_client.CollectorRegistry()
    registry.register(histogram)

    def observe() -> None:
        for _ in range(500):
            histogram.observe([0.5, 2.0])

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.get_sample_value("h_count") == 4000
    assert registry.get_sample_value("h_bucket", {"le": "1.0"}) == 2000


def test_bounds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        HistogramCollector("h", "wrong", (1.0, 0.5))
