"""What the quota service counts for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics
from farthing.quota.core.holds import Denial, Granted, Settled


class QuotaMetrics:
    """Counts of answers and settlements."""

    def __init__(self, metrics: Metrics) -> None:
        self._granted = metrics.counter(names.METRIC_QUOTA_GRANTED, "Reservations granted.")
        self._denied = metrics.counter(
            names.METRIC_QUOTA_DENIED, "Reservations denied.", ("reason",)
        )
        self._settled = metrics.counter(
            names.METRIC_QUOTA_SETTLED, "Settlements.", ("outcome",)
        )
        self._expired = metrics.counter(
            names.METRIC_QUOTA_EXPIRED, "Holds that the sweep freed unsettled."
        )
        self._unfunded = metrics.counter(
            names.METRIC_QUOTA_UNFUNDED,
            "Spent by settlements that came after their hold expired and found no money left.",
        )

    def answered(self, answers: Iterable[Granted | Denial]) -> None:
        """Count answers to reservations."""
        granted_count = 0
        for answer in answers:
            if isinstance(answer, Granted):
                granted_count += 1
            else:
                self._denied.labels(answer.reason.name).inc()
        self._granted.inc(granted_count)

    def settled(self, results: Iterable[Settled]) -> None:
        """Count settlements."""
        for result in results:
            self._settled.labels(result.outcome.name).inc()
            if result.unfunded_nano_usd:
                self._unfunded.inc(result.unfunded_nano_usd)

    def expired(self, hold_count: int) -> None:
        """Count freed holds."""
        self._expired.inc(hold_count)
