"""Every metric of the worker, in a registry of its own: what happened is told in chunks, and Prometheus reads the sums.

Each method is one event of the pipeline and is called once a poll, batch or commit, never once a frame. Every label
value that is known beforehand is exported as zero from the start, so that `rate()` sees the first event and an absent
series always means an absent worker. docs/metrics.md lists the metrics with what to watch for.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from importlib import metadata

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector

from worker.frames import ModelIdentity, Reason, SourcePartition, Stage
from worker.observe.buckets import BATCH_BUCKETS, END_TO_END_BUCKETS_S, STAGE_BUCKETS_S
from worker.observe.histogram import Float64Array, HistogramCollector

NAMESPACE = "headrace"
SERVED_BY = ("primary", "fallback")

# The library adds a `_created` series to every counter: twice the series, and nothing reads them.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


class RequestOutcome(StrEnum):
    """How a request to the engine ended: label of `infer_requests_total`."""

    OK = "ok"
    REJECTED = "rejected"  # the endpoint refused this batch
    UNAVAILABLE = "unavailable"  # not reached, or too busy
    TIMED_OUT = "timed_out"  # no answer within the deadline
    FAILED = "failed"  # anything else


class Rebalance(StrEnum):
    """What the group did with our partitions: label of `rebalances_total`."""

    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"


class Metrics:
    """The worker's metrics. All methods may be called from any thread.

    `endpoints` are the inference endpoints known at the start; others are added as they are first named.
    """

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._counters()
        self._gauges()
        self._stages = self._histogram(
            "stage_duration_seconds",
            "Time in a stage: validate, decode, preprocess of a frame, the others of a batch",
            STAGE_BUCKETS_S,
            "stage",
            tuple(Stage),
        )
        self._end_to_end = self._histogram(
            "end_to_end_seconds",
            "From captured-at to the prediction, for each frame whose prediction was acknowledged",
            END_TO_END_BUCKETS_S,
        )
        self._transactions = self._histogram(
            "transaction_seconds", "From the first record of a transaction to its commit", STAGE_BUCKETS_S
        )
        self._longest_s = 0.0
        self._batch_size = self._histogram("batch_size", "Frames in a batch as it was submitted", BATCH_BUCKETS)
        for endpoint in endpoints:
            self.endpoint(endpoint)
        self._lag_known: frozenset[SourcePartition] = frozenset()
        self._model_known: tuple[str, str, str] | None = None
        build = self._gauge("build_info", "Always 1; what runs", ("version", "python"))
        build.labels(_version(), platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    # --- frames ---

    def frames_received(self, n: int) -> None:
        """`n` frames were read from the source."""
        self._received.inc(n)

    def predicted(self, n: int, served_by: str = "primary") -> None:
        """`n` predictions were acknowledged; `served_by` is one of SERVED_BY."""
        self._predicted.labels(served_by).inc(n)

    def dead_lettered(self, counts: Mapping[Reason, int]) -> None:
        """So many dead letters of each reason were acknowledged."""
        for reason, n in counts.items():
            self._dead_lettered.labels(reason).inc(n)

    def frames_skipped(self, n: int) -> None:
        """`n` offsets were gone before they were read (retention, a record that can't be read): lost."""
        self._skipped.inc(n)

    def frames_discarded(self, n: int) -> None:
        """`n` outcomes came after their partition was taken away, and were thrown away; the next owner makes them."""
        self._discarded.inc(n)

    def in_flight(self, frames: int, bytes_: int) -> None:
        """What is now between poll and acknowledgement."""
        self._frames_in_flight.set(frames)
        self._bytes_in_flight.set(bytes_)

    # --- time and size ---

    def stage(self, stage: Stage, seconds: Sequence[float] | Float64Array) -> None:
        """Durations of a stage: one for each frame of a batch, or one for the batch."""
        self._stages.observe(seconds, stage)

    def end_to_end(self, seconds: Sequence[float]) -> None:
        """Ages of a batch's predictions; a negative one (a sender's clock runs ahead) is clamped to 0 and counted."""
        clamped = [max(0.0, value) for value in seconds]
        negative = sum(value < 0 for value in seconds)
        if negative:
            self._negative_latencies.inc(negative)
        self._end_to_end.observe(clamped)

    def batch(self, frames: int) -> None:
        """A batch of so many frames was submitted."""
        self._batches.inc()
        self._batch_size.observe((float(frames),))

    # --- the broker ---

    def lag(self, lags: Mapping[SourcePartition, int]) -> None:
        """Offsets between our position and the end, for each partition we own now; the others' series disappear."""
        for partition, n in lags.items():
            self._lag.labels(*map(str, partition)).set(n)
        for gone in self._lag_known.difference(lags):
            self._lag.remove(*map(str, gone))
        self._lag_known = frozenset(lags)

    def partitions(self, assigned: int, paused: int, unreadable: int) -> None:
        """How many partitions we own, hold back because the budget is full, and gave up at a record we can't read."""
        self._assigned.set(assigned)
        self._paused.set(paused)
        self._unreadable.set(unreadable)

    def rebalance(self, kind: Rebalance) -> None:
        """The group gave or took partitions."""
        self._rebalances.labels(kind).inc()

    def committed(self) -> None:
        """A commit of offsets succeeded."""
        self._commits.inc()

    def commit_failed(self) -> None:
        """A commit of offsets failed."""
        self._commit_failures.inc()

    def transaction(self, seconds: float) -> None:
        """A transaction was committed so long after its first record."""
        self._transactions.observe((seconds,))
        self._longest_s = max(self._longest_s, seconds)
        self._longest_transaction.set(self._longest_s)

    def publish_failed(self) -> None:
        """The broker did not acknowledge: a new producer was made, partitions went back to their committed offsets."""
        self._publish_failures.inc()

    def statistics_records(self, n: int) -> None:
        """`n` statistics records were acknowledged."""
        self._statistics.inc(n)

    # --- inference ---

    def endpoint(self, endpoint: str) -> None:
        """Make an endpoint's series, all zero (breaker closed)."""
        for outcome in RequestOutcome:
            self._requests.labels(endpoint, outcome)
        self._breaker.labels(endpoint)

    def infer_request(self, endpoint: str, outcome: str) -> None:
        """A request to the engine ended; `outcome` is a value of RequestOutcome."""
        self._requests.labels(endpoint, outcome).inc()

    def retried(self) -> None:
        """A batch was sent to the engine again."""
        self._retries.inc()

    def breaker(self, endpoint: str, state: int) -> None:
        """The endpoint's breaker moved: 0 closed, 1 half open, 2 open."""
        self._breaker.labels(endpoint).set(state)

    def slots_quarantined(self, now: int, added: int = 0) -> None:
        """`now` slots wait for a timed-out request's end before anyone may use them; `added` of them are new."""
        self._in_quarantine.set(now)
        self._quarantined.inc(added)

    def model(self, identity: ModelIdentity) -> None:
        """The model that serves now; the series of the one before disappears."""
        labels = (identity.name, identity.version, identity.digest)
        if self._model_known is not None and self._model_known != labels:
            self._model_info.remove(*self._model_known)
        self._model_info.labels(*labels).set(1)
        self._model_known = labels

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """One sample as a scrape would show it (`name` without the prefix); None where there is none."""
        return self.registry.get_sample_value(f"{NAMESPACE}_{name}", dict(labels or {}))

    def _counters(self) -> None:
        self._received = self._counter("frames_received", "Frames read from the source")
        self._predicted = self._counter("frames_predicted", "Predictions acknowledged", ("served_by",), SERVED_BY)
        self._dead_lettered = self._counter(
            "frames_dead_lettered", "Dead letters acknowledged", ("reason",), tuple(Reason)
        )
        self._skipped = self._counter("frames_skipped", "Offsets lost before they were read")
        self._discarded = self._counter("frames_discarded", "Outcomes thrown away after their partition was taken away")
        self._negative_latencies = self._counter("negative_latencies", "End-to-end times below zero, clamped to 0")
        self._batches = self._counter("batches", "Batches submitted")
        self._rebalances = self._counter("rebalances", "Partitions given or taken", ("kind",), tuple(Rebalance))
        self._commits = self._counter("commits", "Commits of offsets that succeeded")
        self._commit_failures = self._counter("commit_failures", "Commits of offsets that failed")
        self._publish_failures = self._counter("publish_failures", "Times the producer was made anew")
        self._statistics = self._counter("statistics_records", "Statistics records acknowledged")
        self._requests = self._counter("infer_requests", "Requests to the engine that ended", ("endpoint", "outcome"))
        self._retries = self._counter("retries", "Batches sent to the engine again")
        self._quarantined = self._counter("slots_quarantined", "Slots ever quarantined after a timed-out request")

    def _gauges(self) -> None:
        self._frames_in_flight = self._gauge("frames_in_flight", "Frames between poll and acknowledgement")
        self._bytes_in_flight = self._gauge("bytes_in_flight", "Bytes that count against max_in_flight_bytes")
        self._lag = self._gauge("consumer_lag", "Offsets from our position to the end", ("topic", "partition"))
        self._assigned = self._gauge("partitions_assigned", "Partitions this worker owns")
        self._paused = self._gauge("partitions_paused", "Partitions held back because the budget is full")
        self._unreadable = self._gauge("partitions_unreadable", "Partitions stopped at a record that can't be read")
        self._breaker = self._gauge("breaker_state", "0 closed, 1 half open, 2 open", ("endpoint",))
        self._in_quarantine = self._gauge("slots_in_quarantine", "Slots that wait for a timed-out request's end")
        self._longest_transaction = self._gauge("transaction_longest_seconds", "Longest transaction committed so far")
        self._model_info = self._gauge("model_info", "Always 1; the model that serves", ("name", "version", "digest"))

    def _counter(
        self, name: str, documentation: str, labels: tuple[str, ...] = (), values: tuple[str, ...] = ()
    ) -> Counter:
        counter = Counter(name, documentation, labels, namespace=NAMESPACE, registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, documentation: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, documentation, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(
        self, name: str, documentation: str, bounds: Sequence[float], label: str = "", values: Sequence[str] = ("",)
    ) -> HistogramCollector:
        histogram = HistogramCollector(f"{NAMESPACE}_{name}", documentation, bounds, label, values)
        self.registry.register(histogram)
        return histogram


def _version() -> str:
    try:
        return metadata.version("headrace")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
