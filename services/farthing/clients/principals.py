"""Whose API key is it? For services that have to know, asked from the quota service found in discovery."""

from __future__ import annotations

import asyncio

import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.clients.discovered_channel import DiscoveredChannel
from farthing.kit.discovery import ServiceWatch
from farthing.kit.errors import PermissionDenied, Unauthenticated, Unavailable
from farthing.kit.rpc.channel import decode_error
from farthing.kit.rpc.tls import TlsFiles

_TIMEOUT_S = 2.0
_DISCOVERY_S = 2.0


class PrincipalResolver:
    """Asks the quota service of `watch`; keeps nothing, so a revoked key is refused at once."""

    def __init__(
        self, watch: ServiceWatch, *, region: str, tls: TlsFiles | None = None
    ) -> None:
        self._channel = DiscoveredChannel(watch, region=region, tls=tls)
        self._stub = quota_pb2_grpc.QuotaServiceStub(self._channel)

    async def resolve(self, key_digest: bytes) -> common_pb2.Principal:
        """The key's owner. Unauthenticated for an unknown key, Unavailable when the quota service is not there.

        A service that has just started may not have heard of quota yet: that is waited for, briefly.
        """
        try:
            async with asyncio.timeout(_DISCOVERY_S):
                await self._channel.channel_ready()
        except TimeoutError:
            raise Unavailable(
                "no quota service is known; start one or wait for discovery",
                reason="QUOTA_UNREACHABLE",
                retry_after_ms=1000,
            ) from None
        try:
            response = await self._stub.Authenticate(
                quota_pb2.AuthenticateRequest(key_digest=key_digest), timeout=_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        if not response.HasField("principal"):
            raise Unauthenticated(
                "the API key is unknown, revoked or expired; `farthing keys create` makes one",
                reason="KEY_INVALID",
            )
        return response.principal

    async def require_admin(self, key_digest: bytes) -> None:
        """Like `resolve`, and PermissionDenied unless the key is an administrator's."""
        principal = await self.resolve(key_digest)
        if not principal.admin:
            raise PermissionDenied(
                f"{principal.key_id} is not an administrator's key",
                reason="ADMIN_REQUIRED",
                metadata={"key_id": principal.key_id},
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()
