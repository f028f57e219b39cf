"""Whose API key is it? For services that have to know, asked from the quota service found in discovery."""

from __future__ import annotations

import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.kit.discovery import ServiceWatch
from farthing.kit.errors import PermissionDenied, Unauthenticated, Unavailable
from farthing.kit.rpc.channel import decode_error, open_channel
from farthing.kit.rpc.tls import TlsFiles

_TIMEOUT_S = 2.0


class PrincipalResolver:
    """Resolves key digests at one quota instance of `watch`; keeps nothing, so a revoked key is refused at once."""

    def __init__(
        self, watch: ServiceWatch, *, region: str, tls: TlsFiles | None = None
    ) -> None:
        self._watch, self._region, self._tls = watch, region, tls
        self._address = ""
        self._channel: grpc.aio.Channel | None = None

    async def resolve(self, key_digest: bytes) -> common_pb2.Principal:
        """The key's owner. Unauthenticated for an unknown key, Unavailable when the quota service is not there."""
        stub = quota_pb2_grpc.QuotaServiceStub(await self._connect())
        try:
            response = await stub.Authenticate(
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
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _connect(self) -> grpc.aio.Channel:
        instances = sorted(
            self._watch.instances.values(),
            key=lambda item: (item.suspect, item.region != self._region, item.id),
        )
        if not instances:
            raise Unavailable(
                "no quota service is known; start one or wait for discovery",
                reason="QUOTA_UNREACHABLE",
                retry_after_ms=1000,
            )
        address = instances[0].address
        if self._channel is None or address != self._address:
            await self.close()
            self._channel, self._address = open_channel(address, tls=self._tls), address
        return self._channel
