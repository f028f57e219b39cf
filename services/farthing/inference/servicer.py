"""The inference service of both tiers: messages in, engine, messages out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference import wire
from farthing.inference.core.validation import check_request
from farthing.inference.engine import DoneEvent, Engine, EngineEvent, TokenEvent
from farthing.inference.model import Capability
from farthing.kit.errors import InvalidArgument, NotFound, Unimplemented
from farthing.kit.rpc import context as call_context
from farthing.kit.telemetry import names

# Bounds of inference.proto's WatchLoad.
_SHORTEST_REPORT_S = 0.050
_LONGEST_REPORT_S = 0.250
# Kept below the promise for the time a report needs to get out.
_REPORT_MARGIN_S = 0.020

_LONGEST_COALESCE_MS = 1000

_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """Serves one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = asyncio.Event()

    def stop_watches(self) -> None:
        """Ends the streams of load reports, which would otherwise outlast any drain."""
        self._stopping.set()

    async def Generate(
        self, request: pb.GenerateRequest, context: _Context
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """See inference.proto. Closing it frees the engine."""
        coalesce_s = min(max(request.coalesce_ms, 0), _LONGEST_COALESCE_MS) / 1000
        async with aclosing(self._generate(request)) as events:
            async for event in events:
                if isinstance(event, DoneEvent):
                    yield pb.GenerateResponse(completion=wire.encode_completion(event))
                else:
                    yield wire.encode_delta(event)
                    if coalesce_s:
                        # Tokens that come meanwhile are joined by the engine's stream: fewer, larger messages.
                        await asyncio.sleep(coalesce_s)

    async def Complete(
        self, request: pb.CompleteRequest, context: _Context
    ) -> pb.CompleteResponse:
        """See inference.proto."""
        response = pb.CompleteResponse()
        texts: list[str] = []
        async with aclosing(self._generate(request.request)) as events:
            async for event in events:
                if isinstance(event, DoneEvent):
                    response.completion.CopyFrom(wire.encode_completion(event))
                else:
                    texts.append(event.text)
                    response.logprobs.extend(wire.encode_logprobs(event.logprobs))
        response.text = "".join(texts)
        return response

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """See inference.proto."""
        return pb.ListModelsResponse(models=[wire.encode_model(self._engine.model)])

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: _Context
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        """See inference.proto. Ends when the caller goes away or the service stops."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            load = self._engine.load()
            reported_s = loop.time()
            yield wire.encode_load(load, self._engine.model)
            changed = asyncio.ensure_future(self._engine.load_changed(load.version))
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

    async def _generate(self, request: pb.GenerateRequest) -> AsyncGenerator[EngineEvent]:
        span = call_context.current().span
        span.set(names.REQUEST_ID, request.request_id)
        span.set(names.GEN_AI_REQUEST_MODEL, request.model)
        self._check_model(request.model)
        asked = wire.decode_request(request)
        check_request(asked)
        self._check_capabilities(request.input)
        started = False
        async with aclosing(self._engine.generate(asked)) as events:
            async for event in events:
                if isinstance(event, TokenEvent) and not started:
                    started = True
                    span.event(names.EVENT_FIRST_TOKEN)
                elif isinstance(event, DoneEvent):
                    span.set(names.QUEUE_US, event.usage.queue_us)
                    span.set(names.GEN_AI_RESPONSE_FINISH_REASONS, [event.finish_reason.value])
                yield event

    def _check_model(self, name: str) -> None:
        if not name:
            raise InvalidArgument("model is empty; name one of ListModels.", field="model")
        served = self._engine.model.name
        if name != served:
            raise NotFound(
                f"Model {name} is not loaded here; {served} is.",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "served": served},
            )

    def _check_capabilities(self, given: pb.GenerationInput) -> None:
        wanted = {
            Capability.CHAT: bool(given.messages),
            Capability.JSON_SCHEMA: bool(given.response_format.json_schema),
            Capability.LOGPROBS: given.logprobs,
        }
        model = self._engine.model
        for capability, asked in wanted.items():
            if asked and capability not in model.capabilities:
                raise Unimplemented(
                    f"Model {model.name} cannot do {capability} here. Leave it out or use"
                    " another model.",
                    reason="CAPABILITY_MISSING",
                    metadata={"model": model.name, "capability": capability.value},
                )
