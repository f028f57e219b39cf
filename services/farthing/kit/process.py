"""What every service process has besides its work: clock, logs, spans, metrics, discovery, TLS and a gRPC server."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from farthing.kit.clock import Clock, SystemClock
from farthing.kit.discovery import Registration, Registry, open_registry
from farthing.kit.discovery.nearby import META_BOOT, META_UNIX, boot_id
from farthing.kit.errors import FarthingError
from farthing.kit.rpc.server import RpcServer
from farthing.kit.rpc.tls import TlsFiles, read_tls_files
from farthing.kit.settings import ServiceSettings, load
from farthing.kit.telemetry import logs
from farthing.kit.telemetry.export import SpanExporter, build_resource
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder, SpanRecorder

_S = TypeVar("_S", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class ServiceProcess:
    """The parts that a composition root hands on. Made by `run_service`, which also closes them."""

    service: str
    settings: ServiceSettings
    clock: Clock
    recorder: SpanRecorder
    metrics: Metrics
    registry: Registry
    tls: TlsFiles | None

    def server(self) -> RpcServer:
        """A gRPC server on the settings' address."""
        return RpcServer(
            f"{self.settings.host}:{self.settings.port}",
            recorder=self.recorder,
            metrics=self.metrics,
            tls=self.tls,
            drain_ms=self.settings.drain_ms,
            unix_socket=self._unix_socket(),
        )

    def _unix_socket(self) -> Path | None:
        # The socket is plain text: where peers must prove who they are, all of them come by TLS.
        return self.settings.unix_socket if self.tls is None else None

    def _nearby_meta(self) -> dict[str, str]:
        path = self._unix_socket()
        return {} if path is None else {META_UNIX: str(path), META_BOOT: boot_id()}

    async def serve(
        self,
        server: RpcServer,
        *,
        discovery_name: str,
        meta: Mapping[str, str] | None = None,
        on_stopping: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serve until SIGTERM or SIGINT; registered under `discovery_name` while health says SERVING."""
        registration = Registration(
            id=self.settings.resolve_instance_id(self.service),
            service=discovery_name,
            address=self.settings.resolve_address(),
            region=self.settings.region,
            meta={**(meta or {}), **self._nearby_meta()},
            check_tls=self.tls is not None,
        )

        # What is alive now lives as long as the process: the collector need not look at it again. And a request makes
        # hundreds of short-lived objects without cycles: at the default of 700 it would run every few requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)

        async def stopping() -> None:
            await self.registry.deregister(registration.id)
            if on_stopping is not None:
                await on_stopping()

        await server.run(
            on_ready=lambda: self.registry.register(registration), on_stopping=stopping
        )


def run_service(
    service: str,
    settings_class: type[_S],
    main: Callable[[_S, ServiceProcess], Awaitable[None]],
) -> None:
    """Run `main` with everything set up, on uvloop where there is one; exits 1 with one line on a known error."""
    try:
        settings = load(settings_class, os.environ)
        logs.configure(settings, service=service)
        _run(_live(service, settings, main))
    except FarthingError as error:
        print(f"farthing {service}: {error.message}", file=sys.stderr)  # noqa: T201  before logs may exist
        raise SystemExit(1) from None


async def _live(
    service: str, settings: _S, main: Callable[[_S, ServiceProcess], Awaitable[None]]
) -> None:
    clock, metrics = SystemClock(), Metrics(service)
    recorder: SpanRecorder = NullRecorder()
    exporter: SpanExporter | None = None
    if settings.otlp_endpoint:
        recorder = SpanRecorder(sample_ratio=settings.trace_sample_ratio)
        metrics.watch_recorder(recorder)
        resource = build_resource(
            service=service,
            instance_id=settings.resolve_instance_id(service),
            region=settings.region,
        )
        exporter = SpanExporter(recorder, settings.otlp_endpoint, resource)
        exporter.start()
    registry = open_registry(settings, service=service, clock=clock)
    tls = read_tls_files(settings)
    if settings.metrics_port >= 0:
        metrics.serve(settings.host, settings.resolve_metrics_port())
    try:
        await main(
            settings,
            ServiceProcess(service, settings, clock, recorder, metrics, registry, tls),
        )
    finally:
        await registry.close()
        if exporter is not None:
            await exporter.stop()
        metrics.close()


def _run(work: Awaitable[None]) -> None:
    async def start() -> None:
        await work

    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(start())
    else:
        uvloop.run(start())
