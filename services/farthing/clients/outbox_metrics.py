"""The outbox's depth, age and counts as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.clients.outbox import Outbox
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics


def watch_outbox(metrics: Metrics, outbox: Outbox) -> None:
    """Publish the outbox's stats with every scrape."""
    metrics.registry.register(_OutboxCollector(outbox))


class _OutboxCollector(Collector):
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:
        stats = self._outbox.stats()
        yield GaugeMetricFamily(
            names.METRIC_OUTBOX_DEPTH, "Entries not delivered yet.", value=stats.depth_count
        )
        yield GaugeMetricFamily(
            names.METRIC_OUTBOX_OLDEST_AGE,
            "Age of the oldest entry not delivered yet.",
            value=stats.oldest_age_ms / 1000,
        )
        for name, doc, count in (
            (names.METRIC_OUTBOX_DELIVERED, "Entries delivered.", stats.delivered_count),
            (names.METRIC_OUTBOX_REFUSED, "Entries refused for good.", stats.refused_count),
            (names.METRIC_OUTBOX_RETRIES, "Deliveries tried again.", stats.retry_count),
        ):
            yield CounterMetricFamily(name, doc, value=count)
