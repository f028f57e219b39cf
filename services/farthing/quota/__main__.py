"""Starts the quota service: settings → store → servicer → serve."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
import asyncio
import secrets

from farthing.api.quota.v1 import quota_pb2_grpc
from farthing.kit.ids import new_id
from farthing.kit.process import ServiceProcess, run_service
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.service import QuotaServicer
from farthing.quota.settings import QuotaSettings
from farthing.quota.store_sqlite import SqliteQuotaStore
from farthing.quota.upkeep import add_bootstrap_key, sweep


async def serve(settings: QuotaSettings, process: ServiceProcess) -> None:
    """Run until SIGTERM or SIGINT."""
    clock = process.clock
    bootstrap_secret = settings.resolve_bootstrap_admin_key()
    store = SqliteQuotaStore(
        settings.resolve_data_dir("quota") / "quota.db",
        now_ms=clock.time_ns() // 1_000_000,
        synchronous=settings.resolve_synchronous(),
    )
    await store.open()
    if bootstrap_secret:
        await add_bootstrap_key(
            store, bootstrap_secret, key_id=new_id("key"), now_ms=clock.time_ns() // 1_000_000
        )
    metrics = QuotaMetrics(process.metrics)
    server = process.server()
    servicer = QuotaServicer(
        store,
        clock=clock,
        metrics=metrics,
        make_id=new_id,
        make_entropy=secrets.token_bytes,
    )
    server.add(
        quota_pb2_grpc.add_QuotaServiceServicer_to_server,
        servicer,
        end_streams=servicer.kept_calls.end,
    )
    sweeper = asyncio.create_task(sweep(store, settings, clock=clock, metrics=metrics))
    try:
        await process.serve(server, discovery_name="quota")
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await store.close()


if __name__ == "__main__":
    run_service("quota", QuotaSettings, serve)
