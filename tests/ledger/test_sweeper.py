"""Spans expire by the clock, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from farthing.kit.testing import FakeClock, eventually
from farthing.ledger.core.spans import Span
from farthing.ledger.store import MemoryLedgerStore
from farthing.ledger.sweeper import sweep_forever, sweep_once

DAY_NS = 86_400_000_000_000


async def test_spans_older_than_the_retention_are_deleted(
    make_span: Callable[..., Span],
) -> None:
    clock, store = FakeClock(), MemoryLedgerStore()
    now = clock.time_ns()
    await store.record_spans(
        [
            make_span("1" * 16, start_ns=1, end_ns=now - 7 * DAY_NS),
            make_span("2" * 16, start_ns=1, end_ns=now - 7 * DAY_NS - 1),
        ]
    )
    assert await sweep_once(store, clock, 7) == 1
    assert (await store.books()).span_count == 1


async def test_the_sweeper_begins_at_once(make_span: Callable[..., Span]) -> None:
    clock, store = FakeClock(), MemoryLedgerStore()
    await store.record_spans([make_span(start_ns=1, end_ns=2)])
    task = asyncio.create_task(sweep_forever(store, clock, 1))

    async def swept() -> bool:
        return (await store.books()).span_count == 0

    await eventually(swept, what="the sweep")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
