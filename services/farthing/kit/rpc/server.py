"""One server for all services: health first NOT_SERVING, reflection, house rules on every handler, drain at the end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import MAX_MESSAGE_BYTES
from farthing.kit.rpc.handlers import Wrapper
from farthing.kit.rpc.tls import TlsFiles
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder

_log = logging.getLogger(__name__)
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a taken port must be an error, not a second listener
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_Hook = Callable[[], Awaitable[None]]
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class RpcServer:
    """Serves gRPC services under the house rules.

    Order of life: `add` each servicer → `start` (port open, health NOT_SERVING) → `set_serving` → `stop` (NOT_SERVING,
    then drains). `run` does it all and waits for SIGTERM or SIGINT.
    """

    def __init__(
        self,
        address: str,
        *,
        recorder: SpanRecorder,
        metrics: Metrics,
        tls: TlsFiles | None = None,
        drain_ms: int = 10_000,
        unix_socket: Path | None = None,
    ) -> None:
        self._address, self._tls, self._drain_ms = address, tls, drain_ms
        self._unix_socket = unix_socket
        self._wrapper = Wrapper(recorder, metrics)
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = _Health()
        self._names: list[str] = []
        self._enders: list[Callable[[], None]] = []
        self.port = 0

    def add(
        self,
        register: Callable[[Any, Any], None],
        servicer: object,
        *,
        end_streams: Callable[[], None] | None = None,
    ) -> None:
        """Add a servicer by its generated `add_…Servicer_to_server` function.

        `end_streams` is called when the server drains, for streams that would otherwise use up the whole of it.
        """
        if end_streams is not None:
            self._enders.append(end_streams)
        collector = _Collector()
        register(servicer, collector)
        for name, handlers in collector.services.items():
            self._names.append(name)
            self._server.add_generic_rpc_handlers((self._wrapper.wrap(name, handlers),))

    async def start(self) -> None:
        """Open the port. Unavailable if it is taken."""
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [*self._names, _HEALTH, reflection.SERVICE_NAME], self._server
        )
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(
                    self._address, self._tls.server_credentials()
                )
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {self._address}: the port is taken or the address is not this machine's; "
                "stop the other process or set FARTHING_PORT",
                reason="PORT_TAKEN",
                metadata={"address": self._address},
            ) from error
        if self._unix_socket is not None:
            self._listen_nearby(self._unix_socket)
        await self._server.start()

    def _listen_nearby(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._server.add_insecure_port(f"unix:{path}")
            path.chmod(0o600)
        except (OSError, RuntimeError) as error:
            raise Unavailable(
                f"cannot listen on the socket {path}: {error}; set FARTHING_UNIX_SOCKET to a path of at most"
                " 100 characters in a folder of this user's, or unset it",
                reason="SOCKET_UNUSABLE",
                metadata={"path": str(path)},
            ) from error

    async def set_serving(self, serving: bool = True) -> None:
        """Tell health checkers whether to send requests here."""
        value = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in ("", *self._names):
            await self._health.set(name, value)

    async def stop(self) -> None:
        """Refuse new calls, wait up to the drain time for open ones, cancel the rest."""
        await self.set_serving(False)
        await self._drain()

    async def _drain(self) -> None:
        self._health.end_watches()
        for end_streams in self._enders:
            end_streams()
        await self._server.stop(self._drain_ms / 1000)

    async def run(
        self, *, on_ready: _Hook | None = None, on_stopping: _Hook | None = None
    ) -> None:
        """Serve until SIGTERM or SIGINT.

        `on_ready` runs once the port is open and before health says SERVING: register with discovery there.
        `on_stopping` runs when health says NOT_SERVING and before the drain: deregister there.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.start()
        try:
            await self.set_serving()
            if on_ready is not None:
                await on_ready()
            _log.info("ready", extra={"address": self._address, "services": self._names})
            await stop.wait()
            _log.info("draining", extra={"address": self._address})
            await self.set_serving(False)
            if on_stopping is not None:
                await on_stopping()
        finally:
            await self._drain()
        _log.info("stopped", extra={"address": self._address})


class _Health(HealthServicer):
    """The library's, but its watches end with the server: they would otherwise use up the whole drain."""

    def __init__(self) -> None:
        super().__init__()
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._ended = False

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """See grpc.health.v1."""
        told: int | None = None
        while True:
            changed = (
                self._changed
            )  # taken before the status is read, so that no change is missed
            status = self._statuses.get(request.service, _UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            elif self._ended:
                return
            else:
                await changed.wait()

    async def set(self, service: str, status: Any) -> None:
        """Set a service's status and tell whoever watches it."""
        await super().set(service, status)
        self._statuses[service] = status
        self._wake()

    def end_watches(self) -> None:
        """End every watch after it has passed on what was set before."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class _Collector:
    """Stands in for a server while generated code registers, to get at the handler tables."""

    def __init__(self) -> None:
        self.services: dict[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Part of the server's interface; the tables come by the other method."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Take a service's table."""
        self.services[service] = handlers
