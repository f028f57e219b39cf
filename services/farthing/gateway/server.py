"""Serves the gateway over HTTP until a signal, and lets open streams end."""

from __future__ import annotations

import asyncio
import logging
import signal

from aiohttp import web

from farthing.gateway.routers import RouterPool
from farthing.gateway.service import Gateway
from farthing.gateway.settings import GatewaySettings
from farthing.kit.discovery import Instance, Registration, ServiceWatch
from farthing.kit.errors import Unavailable
from farthing.kit.process import ServiceProcess

_log = logging.getLogger(__name__)


async def serve(settings: GatewaySettings, process: ServiceProcess) -> None:
    """Run until SIGTERM or SIGINT."""
    routers = RouterPool(
        _watch_routers(settings, process),
        region=settings.region,
        timeout_s=settings.timeout_ms / 1000,
        tls=process.tls,
    )
    gateway = Gateway(
        routers, clock=process.clock, recorder=process.recorder, metrics=process.metrics
    )
    runner = make_runner(gateway, settings)
    registration = Registration(
        id=settings.resolve_instance_id("gateway"),
        service="gateway",
        address=settings.resolve_address(),
        region=settings.region,
        check="http",
        http_check_url=f"http://{settings.resolve_address()}/healthz",
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await open_port(runner, settings.host, settings.port)
        await process.registry.register(registration)
        _log.info("ready", extra={"address": f"http://{settings.resolve_address()}"})
        await stop.wait()
        _log.info("draining")
        gateway.draining = True
        await process.registry.deregister(registration.id)
    finally:
        await runner.cleanup()
        await routers.close()
    _log.info("stopped")


def make_runner(gateway: Gateway, settings: GatewaySettings) -> web.AppRunner:
    """The HTTP server: cancels a handler when its client goes away, waits for open ones at the end."""
    return web.AppRunner(
        gateway.application(max_body_bytes=settings.max_body_bytes),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=settings.drain_ms / 1000,
    )


async def open_port(runner: web.AppRunner, host: str, port: int) -> None:
    """Listen. Unavailable when the port is taken."""
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}; stop the other process or set FARTHING_PORT",
            reason="PORT_TAKEN",
            metadata={"address": f"{host}:{port}"},
        ) from error


def _watch_routers(settings: GatewaySettings, process: ServiceProcess) -> ServiceWatch:
    if not settings.router_address:
        return process.registry.watch("router")
    watch = ServiceWatch("router")
    only = Instance("router", "router", settings.router_address, settings.region)
    watch.publish({only.id: only}, process.clock.monotonic())
    return watch
