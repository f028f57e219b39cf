"""Asks a process whether it is well: grpc.health.v1, GET /healthz, or Consul's leader."""

from __future__ import annotations

from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farthing.cli.up.plan import ChildPlan
from farthing.kit.rpc.channel import open_channel

_TIMEOUT_S = 2.0


class Probes:
    """Keeps one connection per process; close it."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, plan: ChildPlan) -> bool:
        """Whether the process answers that it is well, within 2 s."""
        if plan.probe == "grpc":
            return await self._ask_grpc(plan.address)
        if plan.probe == "http":
            return await self._ask_http(f"http://{plan.address}/healthz")
        return await self._ask_http(f"{plan.address}/v1/status/leader", empty='""')

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()
        if self._session is not None:
            await self._session.close()

    async def _ask_grpc(self, address: str) -> bool:
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        stub: Any = health_pb2_grpc.HealthStub(self._channels[address])
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def _ask_http(self, url: str, *, empty: str = "") -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
            )
        try:
            async with self._session.get(url) as response:
                return response.status == 200 and (await response.text()).strip() != empty
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
