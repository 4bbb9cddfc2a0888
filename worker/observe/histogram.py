"""A Prometheus histogram that takes a whole batch of observations under one lock.

prometheus_client locks and searches once for each observation; here a list is sorted into its buckets by NumPy and
added at once, so that the hot path pays per batch. `HistogramCollector` hands the sums to the library's registry.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

Float64Array = npt.NDArray[np.float64]


class HistogramCollector(Collector):
    """One histogram with at most one label, all of whose values are known at the start and exported as zeros.

    `bounds` are the upper bounds of the buckets, ascending and inclusive; +Inf is added. Without a label pass
    `label=""` and observe the series `""`.
    """

    def __init__(
        self, name: str, documentation: str, bounds: Sequence[float], label: str = "", values: Sequence[str] = ("",)
    ) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"bucket bounds of {name} must ascend, got {list(bounds)}")
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._bound_names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
        self._lock = threading.Lock()
        self._counts = {value: np.zeros(len(bounds) + 1, dtype=np.int64) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe(self, values: Sequence[float] | Float64Array, series: str = "") -> None:
        """Count each of `values`, a 1-D run of any length, in `series`. Raises KeyError for an unknown series."""
        array = np.asarray(values, dtype=np.float64)
        if not array.size:
            return
        # side="left": a value equal to a bound belongs to that bound's bucket, because `le` includes it.
        added = np.bincount(self._bounds.searchsorted(array, side="left"), minlength=self._bounds.size + 1)
        total = float(array.sum())
        with self._lock:
            self._counts[series] += added
            self._sums[series] += total

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Called by the registry at each scrape: counts and sum of one series are of the same moment."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label] if self._label else None)
        with self._lock:
            snapshot = [(value, counts.cumsum(), self._sums[value]) for value, counts in self._counts.items()]
        for value, cumulative, total in snapshot:
            buckets = list(zip(self._bound_names, cumulative.astype(float).tolist(), strict=True))
            family.add_metric([value] if self._label else [], buckets, total)
        yield family
