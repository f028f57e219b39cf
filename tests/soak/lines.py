"""The two ways to ask an instance: every request by a call of its own, or all over one kept call, as routers do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.clients.instances.relay import Relay
from farthing.kit.rpc.status import decode_error

# Far above what any request takes beside its company: one that takes longer is stuck.
STUCK_S = 60.0


class Line(Protocol):
    """Asks an instance. Failures are FarthingErrors, DeadlineExceeded after STUCK_S among them."""

    def generate(
        self, request: pb.GenerateRequest
    ) -> AsyncGenerator[pb.GenerateResponse | pb.RelayEvent]:
        """The answer's events; closing it leaves the request."""
        ...

    async def complete(self, request: pb.GenerateRequest) -> pb.CompleteResponse:
        """The whole answer."""
        ...


class OwnCalls:
    """Line whose every request is an rpc."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub

    async def generate(
        self, request: pb.GenerateRequest
    ) -> AsyncGenerator[pb.GenerateResponse]:
        call = self._stub.Generate(request, timeout=STUCK_S)
        try:
            async for event in call:
                yield event
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        finally:
            call.cancel()

    async def complete(self, request: pb.GenerateRequest) -> pb.CompleteResponse:
        try:
            answer: pb.CompleteResponse = await self._stub.Complete(
                pb.CompleteRequest(request=request), timeout=STUCK_S
            )
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        return answer

    async def embed(self, model: str, texts: Sequence[str]) -> pb.EmbedResponse:
        """Vectors of `texts`."""
        try:
            answer: pb.EmbedResponse = await self._stub.Embed(
                pb.EmbedRequest(model=model, texts=texts), timeout=STUCK_S
            )
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        return answer


class KeptCall:
    """Line whose requests share one rpc."""

    def __init__(self, stub: Any) -> None:
        self._relay = Relay(stub.Relay)

    def generate(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.RelayEvent]:
        return self._relay.generate(request, timeout_s=STUCK_S, traceparent="")

    async def complete(self, request: pb.GenerateRequest) -> pb.CompleteResponse:
        return await self._relay.complete(request, timeout_s=STUCK_S, traceparent="")

    async def close(self) -> None:
        """End the call."""
        await self._relay.close()
