"""A servicer whose every RPC is a function that a test gives it: for tests of the rules around handlers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from farthing.kit.errors import Unimplemented

SERVICE = "farthing.api.inference.v1.InferenceService"
UNARY = f"{SERVICE}/ListModels"
STREAM = f"{SERVICE}/Generate"


async def _answer() -> pb.ListModelsResponse:
    return pb.ListModelsResponse()


async def _events() -> AsyncGenerator[pb.GenerateResponse]:
    yield pb.GenerateResponse()


class ProbeServicer(InferenceServiceServicer):
    """ListModels runs `unary`, Generate runs `stream`."""

    def __init__(
        self,
        unary: Callable[[], Awaitable[pb.ListModelsResponse]] = _answer,
        stream: Callable[[], AsyncGenerator[pb.GenerateResponse]] = _events,
    ) -> None:
        self._unary, self._stream = unary, stream

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        return await self._unary()

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncGenerator[pb.GenerateResponse]:
        events = self._stream()
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        raise Unimplemented("the probe does not complete", reason="PROBE")

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: Any
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        raise Unimplemented("the probe has no load", reason="PROBE")
        yield  # makes it a generator

    async def Relay(
        self, request_iterator: Any, context: Any
    ) -> AsyncGenerator[pb.RelayResponse]:
        raise Unimplemented("the probe relays nothing", reason="PROBE")
        yield  # makes it a generator

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        raise Unimplemented("the probe does not embed", reason="PROBE")
