"""The store's counts as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.cache.store import CacheStore
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics


def watch_store(metrics: Metrics, store: CacheStore) -> None:
    """Publish the store's counts and sizes with every scrape."""
    metrics.registry.register(_StoreCollector(store))


class _StoreCollector(Collector):
    def __init__(self, store: CacheStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        stats = self._store.stats()
        yield GaugeMetricFamily(
            names.METRIC_CACHE_ENTRIES, "Answers held.", value=stats.entry_count
        )
        yield GaugeMetricFamily(names.METRIC_CACHE_SIZE, "Bytes held.", value=stats.size_bytes)
        for name, doc, count in (
            (names.METRIC_CACHE_HITS, "Lookups answered.", stats.hit_count),
            (names.METRIC_CACHE_MISSES, "Lookups not answered.", stats.miss_count),
            (names.METRIC_CACHE_EVICTIONS, "Removed to make room.", stats.eviction_count),
            (names.METRIC_CACHE_EXPIRATIONS, "Removed by age.", stats.expiration_count),
            (names.METRIC_CACHE_SAVED, "Cost of answers given again.", stats.saved_nano_usd),
        ):
            yield CounterMetricFamily(name, doc, value=count)
