"""The bounded way from the receivers to the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from farthing.kit.errors import Unavailable
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics
from farthing.ledger.core.spans import Span
from farthing.ledger.otlp.decode import DecodedSpans
from farthing.ledger.store import LedgerStore

_RETRY_AFTER_MS = 1_000


class SpanIntake:
    """Stores what receivers decode. While one batch is written, later ones wait and then share a
    transaction; at most `max_waiting_count` spans wait, the rest is refused for its sender to keep.
    """

    def __init__(self, store: LedgerStore, metrics: Metrics, *, max_waiting_count: int) -> None:
        self._store = store
        self._max_waiting_count = max_waiting_count
        self._waiting_count = 0
        self._spans = metrics.counter(
            names.METRIC_LEDGER_SPANS, "Spans received.", ("outcome",)
        )
        self._waiting = metrics.gauge(
            names.METRIC_LEDGER_SPANS_WAITING, "Spans waiting to be stored."
        )

    async def take(self, decoded: DecodedSpans) -> None:
        """Returns when the spans are stored. Unavailable when too many wait already."""
        self._spans.labels("rejected").inc(decoded.rejected_count)
        count = len(decoded.spans)
        if not count:
            return
        # A lone export larger than the bound must pass some time, or its sender would never end.
        if self._waiting_count and self._waiting_count + count > self._max_waiting_count:
            self._spans.labels("refused").inc(count)
            raise Unavailable(
                f"{self._waiting_count} spans are waiting to be stored; send these again later",
                reason="SPAN_QUEUE_FULL",
                metadata={"waiting_count": str(self._waiting_count)},
                retry_after_ms=_RETRY_AFTER_MS,
            )
        self._note(count)
        # Shielded: a sender that goes away must not make room that is not there yet.
        await asyncio.shield(asyncio.ensure_future(self._keep(decoded.spans)))

    async def _keep(self, spans: Sequence[Span]) -> None:
        try:
            new_count = await self._store.record_spans(spans)
        finally:
            self._note(-len(spans))
        self._spans.labels("stored").inc(new_count)
        self._spans.labels("duplicate").inc(len(spans) - new_count)

    def _note(self, change: int) -> None:
        self._waiting_count += change
        self._waiting.set(self._waiting_count)
