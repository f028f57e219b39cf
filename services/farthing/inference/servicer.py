"""The inference service of both tiers: checks, then the engine of the model that was named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference import wire
from farthing.inference.candidates import complete, generate_candidates
from farthing.inference.core.validation import check_request, check_texts
from farthing.inference.engine import Engine
from farthing.inference.host import ModelHost
from farthing.inference.relay import relay
from farthing.kit.errors import InvalidArgument, Unimplemented
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc.kept_calls import KeptCalls
from farthing.kit.telemetry import names

# Bounds of inference.proto's WatchLoad.
_SHORTEST_REPORT_S = 0.050
_LONGEST_REPORT_S = 0.250
# Kept below the promise for the time a report needs to get out.
_REPORT_MARGIN_S = 0.020

_Context = grpc.aio.ServicerContext[Any, Any]
_WANTED = (
    (pb.CAPABILITY_CHAT, "chat", lambda given: bool(given.messages)),
    (
        pb.CAPABILITY_JSON_SCHEMA,
        "json_schema",
        lambda given: bool(given.response_format.json_schema),
    ),
    (pb.CAPABILITY_LOGPROBS, "logprobs", lambda given: given.logprobs),
)


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Serves the models of a host."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host
        self._stopping = asyncio.Event()
        self._kept_calls = KeptCalls()

    def end_streams(self) -> None:
        """Ends load reports, and kept calls when their answers are out: they would otherwise outlast any drain."""
        self._stopping.set()
        self._kept_calls.end()

    async def Generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """See inference.proto. Closing it frees the engine."""
        async with aclosing(self._generate(request)) as events:
            async for event in events:
                yield event

    async def Complete(
        self, request: pb.CompleteRequest, context: _Context
    ) -> pb.CompleteResponse:
        """See inference.proto."""
        return await complete(self._generate, request.request)

    async def Relay(  # type: ignore[override]  # writes its events itself
        self, requests: object, context: _Context
    ) -> None:
        """See inference.proto."""
        await relay(self._generate, context, self._kept_calls)

    async def Embed(self, request: pb.EmbedRequest, context: _Context) -> pb.EmbedResponse:
        """See inference.proto."""
        span = call_context.current().span
        span.set(names.REQUEST_ID, request.request_id)
        span.set(names.GEN_AI_REQUEST_MODEL, request.model)
        check_texts(request.texts)
        async with self._host.use(_require_name(request.model)) as engine:
            _require(engine, pb.CAPABILITY_EMBEDDINGS, "embeddings")
            return await engine.embed(list(request.texts))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """See inference.proto."""
        return pb.ListModelsResponse(models=self._host.models())

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        """See inference.proto. Ends when the caller goes away or the service stops."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            version, load = self._host.load()
            reported_s = loop.time()
            yield pb.WatchLoadResponse(load=load)
            changed = asyncio.ensure_future(self._host.load_changed(version))
            try:
                await self._wait(reported_s + _SHORTEST_REPORT_S - loop.time())
                await self._wait(
                    reported_s + _LONGEST_REPORT_S - _REPORT_MARGIN_S - loop.time(), changed
                )
            finally:
                changed.cancel()

    async def _wait(self, seconds: float, changed: asyncio.Future[None] | None = None) -> None:
        """Waits so long, or until the load changed or the service stops."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        awaited: set[asyncio.Future[Any]] = {stopping, *([changed] if changed else [])}
        try:
            await asyncio.wait(
                awaited, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()

    async def _generate(
        self, request: pb.GenerateRequest
    ) -> AsyncGenerator[pb.GenerateResponse]:
        span = call_context.current().span
        span.set(names.REQUEST_ID, request.request_id)
        span.set(names.GEN_AI_REQUEST_MODEL, request.model)
        name = _require_name(request.model)
        check_request(wire.decode_request(request))
        started = False
        async with self._host.use(name) as engine:
            for capability, word, is_wanted in _WANTED:
                if is_wanted(request.input):
                    _require(engine, capability, word)
            async with aclosing(generate_candidates(engine, request)) as events:
                async for event in events:
                    if event.HasField("completion"):
                        end = event.completion
                        span.set(names.QUEUE_US, end.usage.queue_us)
                        reason = wire.describe_reason(end.finish_reason)
                        span.set(names.GEN_AI_RESPONSE_FINISH_REASONS, [reason])
                    elif not started:
                        started = True
                        span.event(names.EVENT_FIRST_TOKEN)
                    yield event


def _require_name(name: str) -> str:
    if not name:
        raise InvalidArgument("model is empty; name one of ListModels.", field="model")
    return name


def _require(engine: Engine, capability: pb.Capability, word: str) -> None:
    info = engine.info
    if capability not in info.capabilities:
        raise Unimplemented(
            f"Model {info.name} cannot do {word} here. Leave it out or use another model.",
            reason="CAPABILITY_MISSING",
            metadata={"model": info.name, "capability": word},
        )
