"""Starts the router: settings → clients → pipeline → servicer → serve."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
import asyncio

import grpc

from farthing.api.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from farthing.clients.cache import CacheClientOptions, RemoteCacheClient
from farthing.clients.discovered_channel import DiscoveredChannel
from farthing.clients.instances.pool import InstancePool
from farthing.clients.ledger import ChargeSender
from farthing.clients.outbox import Outbox
from farthing.clients.outbox_metrics import watch_outbox
from farthing.clients.quota_strict import StrictQuotaClient
from farthing.kit.discovery import open_documents
from farthing.kit.process import ServiceProcess, run_service
from farthing.kit.rpc.channel import open_channel
from farthing.router.metrics import RouterMetrics, watch_pool
from farthing.router.pipeline import Pipeline, StreamOptions
from farthing.router.replay import ReplayLog
from farthing.router.service import RouterServicer
from farthing.router.settings import RouterSettings
from farthing.router.settling import Biller
from farthing.router.world import LiveWorld

_DELIVER_S = 5.0


async def serve(settings: RouterSettings, process: ServiceProcess) -> None:
    """Compose and serve until told to stop."""

    def channel(service: str, address: str) -> grpc.aio.Channel:
        if address:
            return open_channel(address, tls=process.tls)
        watch = process.registry.watch(service)
        return DiscoveredChannel(watch, region=settings.region, tls=process.tls)

    channels = {
        "quota": channel("quota", settings.quota_address),
        "cache": channel("cache", settings.cache_address),
        "ledger": channel("ledger", settings.ledger_address),
    }
    outbox = Outbox(
        settings.resolve_data_dir("router") / "outbox",
        clock=process.clock,
        synchronous=settings.resolve_synchronous(),
    )
    await outbox.open()
    ChargeSender(channels["ledger"], outbox)
    quota = StrictQuotaClient(channels["quota"], outbox, deadline_ms=settings.quota_deadline_ms)
    cache = RemoteCacheClient(
        channels["cache"],
        CacheClientOptions(
            local_bytes=settings.local_cache_bytes,
            lookup_timeout_s=settings.cache_deadline_ms / 1000,
        ),
        clock=process.clock,
    )
    pool = InstancePool(process.registry, clock=process.clock, tls=process.tls)
    pool.start()
    documents = open_documents(settings, service="router")
    world = LiveWorld(settings.region, pool, documents)
    world.start()
    metrics = RouterMetrics(process.metrics)
    watch_outbox(process.metrics, outbox)
    watch_pool(process.metrics, pool)
    pipeline = Pipeline(
        world=world,
        pool=pool,
        quota=quota,
        cache=cache,
        biller=Biller(outbox, process.clock, metrics),
        recorder=process.recorder,
        region=settings.region,
        streams=StreamOptions(settings.coalesce_ms, settings.coalesce_from_streams),
        metrics=metrics,
    )
    server = process.server()
    server.add(
        add_RouterServiceServicer_to_server,
        RouterServicer(pipeline, pool, quota, ReplayLog(process.clock)),
    )
    try:
        await process.serve(server, discovery_name="router")
    finally:
        await cache.close()
        try:
            # What is not delivered in time is on disk and goes out after the next start.
            async with asyncio.timeout(_DELIVER_S):
                await outbox.drained()
        except TimeoutError:
            pass
        await quota.close()
        await outbox.close()
        await pool.close()
        await documents.close()
        for open_one in channels.values():
            await open_one.close()


if __name__ == "__main__":
    run_service("router", RouterSettings, serve)
