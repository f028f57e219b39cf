"""Calls the services: addresses and keys from the settings, errors as one line that says what to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grpc

from farthing.cli.settings import CliSettings, read_settings
from farthing.kit.errors import FarthingError, Unauthenticated, Unavailable
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.rpc.tls import read_tls_files

_T = TypeVar("_T")
_Response = TypeVar("_Response", covariant=True)

CALL_TIMEOUT_S = 10.0


class UnaryCall(Protocol[_Response]):
    """A stub's unary method."""

    def __call__(
        self, request: Any, *, timeout: float, metadata: tuple[tuple[str, str], ...]
    ) -> Awaitable[_Response]: ...


def current_settings() -> CliSettings:
    """The settings of this process, in its working directory."""
    return read_settings(os.environ, Path.cwd())


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's work to its end."""
    return asyncio.run(work)


def require_key(settings: CliSettings, *, admin: bool) -> str:
    """The key to show. Unauthenticated says where keys come from."""
    key = settings.admin_key if admin else settings.api_key or settings.admin_key
    if key:
        return key
    if admin:
        raise Unauthenticated(
            "this needs an administrator's key; set FARTHING_ADMIN_KEY, or run in the folder of `farthing up`",
            reason="KEY_MISSING",
        )
    raise Unauthenticated(
        "this needs an API key; set FARTHING_API_KEY (`farthing keys create` makes one), "
        "or run in the folder of `farthing up`",
        reason="KEY_MISSING",
    )


@asynccontextmanager
async def connect(settings: CliSettings, address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to host:port, closed at the end."""
    channel = open_channel(address, tls=read_tls_files(settings.as_service_settings()))
    try:
        yield channel
    finally:
        await channel.close()


async def call(
    method: UnaryCall[_T],
    request: Any,
    *,
    key: str,
    address: str,
    timeout_s: float = CALL_TIMEOUT_S,
) -> _T:
    """One call; its error as a FarthingError."""
    try:
        return await method(request, timeout=timeout_s, metadata=outgoing_metadata(None, key))
    except grpc.aio.AioRpcError as error:
        raise explain_error(error, address) from None


def explain_error(error: grpc.aio.AioRpcError, address: str) -> FarthingError:
    """The error as the callee raised it, or what to do when nobody answered."""
    decoded = decode_error(error)
    if decoded.reason == "GRPC_UNAVAILABLE":
        return Unavailable(
            f"nothing answers at {address}; start the suite with `farthing up`, or set the address "
            f"(see `farthing config`) ({error.details()})",
            reason="UNREACHABLE",
            metadata={"address": address},
        )
    return decoded
