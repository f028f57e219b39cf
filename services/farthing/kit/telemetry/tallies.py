"""Counts for the hot path: plain numbers that one event loop adds to, made into Prometheus' samples when it asks.

prometheus_client's own take a lock for each number, and a request adds to ten.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
"""Values of the labels, in their order. The sets of them must be small and closed."""


class Tally(Collector):
    """A counter, or with `falls` a gauge, of whole numbers. Add from one thread; any thread may collect."""

    def __init__(
        self, name: str, doc: str, labels: Sequence[str] = (), *, falls: bool = False
    ) -> None:
        self._name, self._doc, self._labels, self._falls = name, doc, labels, falls
        self._counts: defaultdict[Labels, int] = defaultdict(int)
        if not labels:
            self._counts[()] = 0  # known before the first event

    def add(self, labels: Labels = (), amount: int = 1) -> None:
        """Add `amount`; below 0 only where the tally falls."""
        self._counts[labels] += amount

    def collect(self) -> Iterator[Metric]:
        """The samples as they are now."""
        family = (GaugeMetricFamily if self._falls else CounterMetricFamily)(
            self._name, self._doc, labels=self._labels
        )
        for labels, count in list(self._counts.items()):
            family.add_metric(labels, count)
        yield family


class Timings(Collector):
    """A histogram of seconds. Add from one thread; any thread may collect."""

    def __init__(
        self, name: str, doc: str, labels: Sequence[str], bounds_s: Sequence[float]
    ) -> None:
        self._name, self._doc, self._labels, self._bounds_s = name, doc, labels, bounds_s
        self._bounds = [*map(floatToGoString, bounds_s), "+Inf"]
        self._taken: dict[Labels, _Taken] = {}

    def add(self, labels: Labels, duration_s: float) -> None:
        """Count a duration."""
        taken = self._taken.get(labels)
        if taken is None:
            taken = self._taken[labels] = _Taken(len(self._bounds))
        taken.counts[bisect_left(self._bounds_s, duration_s)] += 1
        taken.sum_s += duration_s

    def collect(self) -> Iterator[Metric]:
        """The samples as they are now."""
        family = HistogramMetricFamily(self._name, self._doc, labels=self._labels)
        for labels, taken in list(self._taken.items()):
            buckets, total = [], 0
            for bound, count in zip(self._bounds, taken.counts, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, taken.sum_s)
        yield family


class _Taken:
    """How many durations fell between each two bounds, and their sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self, bucket_count: int) -> None:
        self.counts, self.sum_s = [0] * bucket_count, 0.0
