"""What the router counts for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.clients.instances.pool import InstancePool
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics


class RouterMetrics:
    """Decisions, money and failovers; labels are small, closed sets."""

    def __init__(self, metrics: Metrics) -> None:
        self._answers = metrics.tally(
            names.METRIC_ROUTER_ANSWERS,
            "Answers by tier and reason of their end.",
            ("tier", "reason"),
        )
        self._cost = metrics.tally(
            names.METRIC_ROUTER_COST, "Charged to tenants, by tier.", ("tier",)
        )
        self._failovers = metrics.tally(
            names.METRIC_ROUTER_FAILOVERS, "Attempts that another instance took over."
        )

    def answered(self, tier: str, reason: str) -> None:
        """A request ended."""
        self._answers.add((tier, reason))

    def charged(self, tier: str, amount_nano_usd: int) -> None:
        """A charge was made."""
        self._cost.add((tier,), amount_nano_usd)

    def failed_over(self) -> None:
        """A second attempt began."""
        self._failovers.add()


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
