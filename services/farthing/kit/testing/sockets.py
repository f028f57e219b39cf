"""Real sockets for contract tests."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder, SpanRecorder


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def serve(
    *servicers: tuple[Callable[[Any, Any], None], object], recorder: SpanRecorder | None = None
) -> AsyncIterator[tuple[grpc.aio.Channel, str]]:
    """Serve (register function, servicer) pairs on a real port under the house rules; yields channel and address."""
    server = RpcServer(
        "127.0.0.1:0", recorder=recorder or NullRecorder(), metrics=Metrics("test"), drain_ms=0
    )
    for register, servicer in servicers:
        server.add(register, servicer)
    await server.start()
    await server.set_serving()
    address = f"127.0.0.1:{server.port}"
    channel = open_channel(address)
    try:
        yield channel, address
    finally:
        await channel.close()
        await server.stop()
