"""What the router counts for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.clients.instances.pool import InstancePool
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics


class RouterMetrics:
    """Decisions, money and failovers; labels are small, closed sets."""

    def __init__(self, metrics: Metrics) -> None:
        self._answers = metrics.counter(
            names.METRIC_ROUTER_ANSWERS,
            "Answers by tier and reason of their end.",
            ("tier", "reason"),
        )
        self._cost = metrics.counter(
            names.METRIC_ROUTER_COST, "Charged to tenants, by tier.", ("tier",)
        )
        # Finding a labelled child costs more than counting; the sets of labels are small and closed.
        self._answers_by: dict[tuple[str, str], Counter] = {}
        self._cost_by: dict[str, Counter] = {}
        self._failovers = metrics.counter(
            names.METRIC_ROUTER_FAILOVERS, "Attempts that another instance took over."
        )

    def answered(self, tier: str, reason: str) -> None:
        """A request ended."""
        child = self._answers_by.get((tier, reason))
        if child is None:
            child = self._answers_by[tier, reason] = self._answers.labels(tier, reason)
        child.inc()

    def charged(self, tier: str, amount_nano_usd: int) -> None:
        """A charge was made."""
        child = self._cost_by.get(tier)
        if child is None:
            child = self._cost_by[tier] = self._cost.labels(tier)
        child.inc(amount_nano_usd)

    def failed_over(self) -> None:
        """A second attempt began."""
        self._failovers.inc()


def watch_pool(metrics: Metrics, pool: InstancePool) -> None:
    """Publish instances by state and the age of the view with every scrape."""
    metrics.registry.register(_PoolCollector(pool))


class _PoolCollector(Collector):
    def __init__(self, pool: InstancePool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            names.METRIC_ROUTER_INSTANCES, "Instances known, by state.", labels=["state"]
        )
        counts: dict[str, int] = {}
        for view in self._pool.view():
            counts[view.state.value] = counts.get(view.state.value, 0) + 1
        for state, count in counts.items():
            states.add_metric([state], count)
        yield states
        yield GaugeMetricFamily(
            names.METRIC_ROUTER_VIEW_AGE,
            "Age of discovery's newest good answer; negative before any.",
            value=self._pool.age_ms() / 1000,
        )
