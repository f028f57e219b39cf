"""Starts the cache service: settings → store → servicer → serve."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
import asyncio

from farthing.api.cache.v1 import cache_pb2_grpc
from farthing.cache.key_feed import KeyFeed
from farthing.cache.metrics import watch_store
from farthing.cache.service import CacheServicer
from farthing.cache.settings import CacheSettings
from farthing.cache.store import CacheStore
from farthing.cache.store_sqlite import SqliteCacheStore
from farthing.clients.principals import PrincipalResolver
from farthing.kit.clock import Clock
from farthing.kit.process import ServiceProcess, run_service


async def serve(settings: CacheSettings, process: ServiceProcess) -> None:
    """Run until SIGTERM or SIGINT."""
    policy = settings.policy()
    store = SqliteCacheStore(
        settings.resolve_data_dir("cache") / "answers.db",
        policy,
        memory_bytes=settings.memory_bytes,
        now_ms=process.clock.time_ns() // 1_000_000,
    )
    await store.open()
    watch_store(process.metrics, store)
    principals = PrincipalResolver(
        process.registry.watch("quota"), region=settings.region, tls=process.tls
    )
    server, feed = process.server(), KeyFeed()
    server.add(
        cache_pb2_grpc.add_CacheServiceServicer_to_server,
        CacheServicer(
            store,
            policy,
            feed,
            clock=process.clock,
            require_admin=principals.require_admin,
        ),
        end_streams=feed.close,
    )
    sweeper = asyncio.create_task(sweep(store, process.clock, settings.sweep_ms))
    try:
        await process.serve(server, discovery_name="cache")
    finally:
        sweeper.cancel()
        await asyncio.gather(sweeper, return_exceptions=True)
        await principals.close()
        await store.close()


async def sweep(store: CacheStore, clock: Clock, period_ms: int) -> None:
    """Remove what has expired, for ever, every `period_ms`."""
    while True:
        await asyncio.sleep(period_ms / 1000)
        await store.sweep(clock.time_ns() // 1_000_000)


if __name__ == "__main__":
    run_service("cache", CacheSettings, serve)
