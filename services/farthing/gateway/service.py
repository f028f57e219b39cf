"""OpenAI's paths: decode, call a router, encode."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.gateway.core.failures import Failure, describe_failure
from farthing.gateway.core.requests import TextRequest, read_chat, read_completion
from farthing.gateway.http import CALL, Call, Edge, reply_json, require_metadata
from farthing.gateway.replies import (
    DONE,
    ChatReplies,
    CompletionReplies,
    Replies,
    describe_bill,
    describe_model,
    dump,
)
from farthing.gateway.routers import Metadata, RouterPool
from farthing.gateway.wire import encode_request
from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError, InvalidArgument, NotFound
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder

_Reader = Callable[[Mapping[str, Any], Mapping[str, str]], TextRequest]
_AUTO = {"id": "auto", "object": "model", "created": 0, "owned_by": "farthing"}
_ENGINE_FAILED = Failure(
    502,
    "server_error",
    "engine_failed",
    "the engine failed during the answer; `farthing` says what was charged",
)


class Gateway:
    """Handlers of all paths. Every reply but a stream's has the bill in its body and headers."""

    def __init__(
        self, routers: RouterPool, *, clock: Clock, recorder: SpanRecorder, metrics: Metrics
    ) -> None:
        self._routers, self._clock, self._metrics = routers, clock, metrics
        self._edge = Edge(recorder, metrics)
        self.draining = False

    def application(self, *, max_body_bytes: int) -> web.Application:
        """The paths under the house rules."""
        app = web.Application(
            middlewares=[self._edge.middleware()], client_max_size=max_body_bytes
        )
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/v1/models/{model}", self._show_model)
        app.router.add_get("/healthz", self._report_health)
        app.router.add_get("/metrics", self._report_metrics)
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, read_chat, ChatReplies)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, read_completion, CompletionReplies)

    async def _serve(
        self, request: web.Request, read: _Reader, replies_class: Callable[[str, int], Replies]
    ) -> web.StreamResponse:
        metadata = require_metadata(request)
        asked = read(_decode(await request.read()), request.headers)
        call = request[CALL]
        message = _encode(asked, call)
        replies = replies_class(call.request_id, self._clock.time_ns() // 1_000_000_000)
        if asked.stream:
            return await self._stream(request, asked, message, metadata, replies)
        answer = await self._routers.complete(message, metadata)
        headers = {**call.headers(), **_bill_headers(answer.decision, answer.result)}
        if answer.result.finish_reason == common_pb2.FINISH_REASON_ERROR:
            body = _ENGINE_FAILED.body()
            body["farthing"] = describe_bill(answer.decision, answer.result)
            return reply_json(body, headers, status=_ENGINE_FAILED.status)
        return reply_json(replies.whole(answer, logprobs=asked.logprobs), headers)

    async def _stream(
        self,
        request: web.Request,
        asked: TextRequest,
        message: router_pb2.GenerateRequest,
        metadata: Metadata,
        replies: Replies,
    ) -> web.StreamResponse:
        call, decision = request[CALL], router_pb2.Decision()
        response: web.StreamResponse | None = None
        async with aclosing(self._routers.generate(message, metadata)) as events:
            try:
                async for event in events:
                    if event.HasField("decision"):
                        # A failover may send another one, so the headers wait for the first text.
                        decision = event.decision
                        continue
                    if response is None:
                        response = await _open_stream(request, call, decision)
                        await response.write(replies.first(decision.chosen.model))
                    if event.HasField("delta"):
                        if event.delta.text or event.delta.logprobs:
                            await response.write(replies.delta(event.delta))
                        continue
                    result = event.result
                    end = replies.last(decision, result, include_usage=asked.include_usage)
                    failed = result.finish_reason == common_pb2.FINISH_REASON_ERROR
                    await response.write(
                        end + (_error_event(_ENGINE_FAILED) if failed else DONE)
                    )
            except FarthingError as error:
                if response is None:
                    raise
                await response.write(_error_event(describe_failure(error)))
        if response is None:
            return reply_json(_ENGINE_FAILED.body(), call.headers(), status=502)
        await response.write_eof()
        return response

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        listed = await self._routers.list_models(require_metadata(request))
        data = [_AUTO, *(describe_model(model) for model in listed.models)]
        return reply_json({"object": "list", "data": data}, request[CALL].headers())

    async def _show_model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["model"]
        listed = await self._routers.list_models(require_metadata(request))
        data = [_AUTO, *(describe_model(model) for model in listed.models)]
        for model in data:
            if model["id"] == name:
                return reply_json(model, request[CALL].headers())
        raise NotFound(
            f"no model named {name}; /v1/models lists them",
            reason="MODEL_UNKNOWN",
            metadata={"model": name},
        )

    async def _report_health(self, request: web.Request) -> web.StreamResponse:
        if self.draining:
            return web.json_response({"status": "draining"}, status=503)
        if not self._routers.known:
            return web.json_response({"status": "no router is known"}, status=503)
        return web.json_response({"status": "ok"})

    async def _report_metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=generate_latest(self._metrics.registry),
            content_type="text/plain",
            charset="utf-8",
        )


def _decode(body: bytes) -> Mapping[str, Any]:
    try:
        decoded = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(
            f"the body is not JSON: {error}", field="body", reason="BODY_NOT_JSON"
        ) from None
    if not isinstance(decoded, dict):
        raise InvalidArgument(
            "the body must be a JSON object", field="body", reason="BODY_NOT_JSON"
        )
    return decoded


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _encode(asked: TextRequest, call: Call) -> router_pb2.GenerateRequest:
    try:
        return encode_request(asked, call.request_id, repeatable=call.repeatable)
    except UnicodeEncodeError:
        raise InvalidArgument(
            "a text holds half of a surrogate pair; send whole characters",
            field="body",
            reason="TEXT_NOT_UNICODE",
        ) from None


async def _open_stream(
    request: web.Request, call: Call, decision: router_pb2.Decision
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",  # proxies that would hold tokens back
            **call.headers(),
            **_place_headers(decision),
        }
    )
    call.started = True
    await response.prepare(request)
    return response


def _place_headers(decision: router_pb2.Decision) -> dict[str, str]:
    return {
        "x-farthing-model": decision.chosen.model,
        "x-farthing-region": decision.chosen.region,
    }


def _bill_headers(decision: router_pb2.Decision, result: router_pb2.Result) -> dict[str, str]:
    return {
        **_place_headers(decision),
        "x-farthing-cost-nano-usd": str(result.total_nano_usd),
    }


def _error_event(failure: Failure) -> bytes:
    return b"data: " + dump(failure.body()) + b"\n\n"
