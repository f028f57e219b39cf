"""Starts the ledger: settings → store → servicer, OTLP receivers and console → serve."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from farthing.api.ledger.v1 import ledger_pb2_grpc
from farthing.clients.principals import PrincipalResolver
from farthing.kit.process import ServiceProcess, run_service
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.spans import NullRecorder
from farthing.ledger.console.app import make_console
from farthing.ledger.console.sessions import Sessions
from farthing.ledger.listeners import listen
from farthing.ledger.otlp.intake import SpanIntake
from farthing.ledger.otlp.receivers import TraceServicer, add_trace_servicer, make_http_receiver
from farthing.ledger.service import LedgerServicer
from farthing.ledger.settings import LedgerSettings
from farthing.ledger.store import LedgerStore
from farthing.ledger.store_sqlite import SqliteLedgerStore
from farthing.ledger.sweeper import sweep_forever


async def serve(settings: LedgerSettings, process: ServiceProcess) -> None:
    """Run until SIGTERM or SIGINT."""
    async with AsyncExitStack() as stack:
        store = SqliteLedgerStore(settings.resolve_data_dir("ledger"))
        await store.open()
        stack.push_async_callback(store.close)
        principals = PrincipalResolver(
            process.registry.watch("quota"), region=settings.region, tls=process.tls
        )
        stack.push_async_callback(principals.close)
        await stack.enter_async_context(_sweeping(store, settings, process))
        await _serve_otlp(stack, store, settings, process)
        if settings.console_port >= 0:
            sessions = Sessions(
                principals.resolve,
                process.clock,
                life_s=settings.console_session_s,
                make_token=lambda: secrets.token_urlsafe(32),
            )
            console = make_console(
                store,
                sessions,
                process.clock,
                session_s=settings.console_session_s,
                secure_cookie=settings.console_secure_cookie,
            )
            host = settings.console_host or settings.host
            runner, _ = await listen(
                console, host, settings.console_port, env="FARTHING_CONSOLE_PORT"
            )
            stack.push_async_callback(runner.cleanup)
        server = process.server()
        server.add(
            ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
            LedgerServicer(store, principals.resolve, process.clock, process.metrics),
        )
        await process.serve(server, discovery_name="ledger")


async def _serve_otlp(
    stack: AsyncExitStack, store: LedgerStore, settings: LedgerSettings, process: ServiceProcess
) -> None:
    intake = SpanIntake(store, process.metrics, max_waiting_count=settings.span_queue_count)
    if settings.otlp_grpc_port >= 0:
        # Spans of the intake itself would be exported to it, and so on for ever.
        server = RpcServer(
            f"{settings.host}:{settings.otlp_grpc_port}",
            recorder=NullRecorder(),
            metrics=process.metrics,
            tls=process.tls,
            drain_ms=settings.drain_ms,
        )
        server.add(add_trace_servicer, TraceServicer(intake))
        await server.start()
        stack.push_async_callback(server.stop)
        await server.set_serving()
    if settings.otlp_http_port >= 0:
        runner, _ = await listen(
            make_http_receiver(intake),
            settings.host,
            settings.otlp_http_port,
            env="FARTHING_OTLP_HTTP_PORT",
            tls=_server_context(settings),
        )
        stack.push_async_callback(runner.cleanup)


@asynccontextmanager
async def _sweeping(
    store: LedgerStore, settings: LedgerSettings, process: ServiceProcess
) -> AsyncIterator[None]:
    task = asyncio.create_task(
        sweep_forever(store, process.clock, settings.span_retention_days)
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _server_context(settings: LedgerSettings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None or settings.tls_ca_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.tls_ca_file)
    context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    run_service("ledger", LedgerSettings, serve)
