"""What quota does by itself: the first administrator's key, and freeing and forgetting holds in time."""

from __future__ import annotations

import asyncio
import logging

from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError
from farthing.quota.core.keys import ApiKey, KeyWish, digest_secret, show_prefix
from farthing.quota.core.nodes import NO_LIMITS
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.settings import QuotaSettings
from farthing.quota.store import QuotaStore

_ADMIN_ORGANISATION = "farthing"
# Forgetting is for disk space only: a look every so many sweeps is enough.
_PRUNE_SWEEP_COUNT = 300
_log = logging.getLogger(__name__)


async def add_bootstrap_key(
    store: QuotaStore, secret: str, *, key_id: str, now_ms: int
) -> ApiKey:
    """Make an administrator's key with a given secret unless it exists. A revoked one stays revoked."""
    wish = KeyWish(
        key_id=key_id,
        name="bootstrap",
        organisation_id=_ADMIN_ORGANISATION,
        cost_centre_id="default",
        team_id="default",
        default_policy="balanced",
        admin=True,
    )
    return await store.add_key(
        wish, digest_secret(secret), show_prefix(secret), NO_LIMITS, now_ms
    )


async def sweep(
    store: QuotaStore, settings: QuotaSettings, *, clock: Clock, metrics: QuotaMetrics
) -> None:
    """Free expired holds and forget old ones, for ever, every `sweep_ms`."""
    sweep_count = 0
    while True:
        await asyncio.sleep(settings.sweep_ms / 1000)
        now_ms = clock.time_ns() // 1_000_000
        try:
            metrics.expired(await store.expire(now_ms))
            if sweep_count % _PRUNE_SWEEP_COUNT == 0:
                await store.prune(
                    now_ms - settings.settled_retention_ms,
                    now_ms - max(settings.expired_retention_ms, settings.settled_retention_ms),
                )
        except FarthingError as error:
            _log.error("sweep failed, trying again: %s", error)
        sweep_count += 1
