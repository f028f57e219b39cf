"""Deletes spans whose retention is over."""

from __future__ import annotations

import asyncio
import logging

from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError
from farthing.ledger.store import LedgerStore

_DAY_NS = 86_400_000_000_000
_PERIOD_S = 3_600.0

_log = logging.getLogger(__name__)


async def sweep_once(store: LedgerStore, clock: Clock, retention_days: int) -> int:
    """Deletes spans that ended more than `retention_days` ago; returns how many."""
    return await store.sweep_spans(clock.time_ns() - retention_days * _DAY_NS)


async def sweep_forever(store: LedgerStore, clock: Clock, retention_days: int) -> None:
    """Sweeps at once and then hourly, until cancelled; a failure is logged and tried again."""
    while True:
        try:
            count = await sweep_once(store, clock, retention_days)
        except FarthingError as error:
            _log.warning("spans were not swept: %s", error)
        else:
            if count:
                _log.info("swept spans", extra={"span_count": count})
        await asyncio.sleep(_PERIOD_S)
