"""What every HTTP request gets: a span, metrics, the caller's key, and errors in OpenAI's form."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Gauge, Histogram

from farthing.gateway.core.failures import Failure, describe_failure
from farthing.gateway.replies import dump
from farthing.kit.errors import FarthingError, InvalidArgument, Unauthenticated
from farthing.kit.ids import new_id, new_span_id, new_trace_id
from farthing.kit.rpc.channel import outgoing_metadata
from farthing.kit.telemetry import names
from farthing.kit.telemetry.logs import trace_fields
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import Span, SpanRecorder, TraceContext

_ID_LIMIT = 64
# Asked every second by health checks and scrapers: as traces they would bury the requests'.
_UNTRACED = ("/healthz", "/metrics")
_log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Call:
    """One HTTP request: its id, its span, and whether a streamed reply has begun.

    `repeatable`: the client chose the id, and gets the first answer again when it repeats it.
    """

    request_id: str
    span: Span
    repeatable: bool = False
    started: bool = False

    def headers(self) -> dict[str, str]:
        """What every reply says of the request."""
        return {"x-request-id": self.request_id, "traceparent": self.span.context.traceparent()}


CALL: web.RequestKey[Call] = web.RequestKey("call", Call)


def require_metadata(request: web.Request) -> tuple[tuple[str, str], ...]:
    """Metadata for the router: the caller's key and the trace. Unauthenticated without a key."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or not key.isascii() or not key.isprintable():
        raise Unauthenticated(
            "send the header 'Authorization: Bearer <API key>'; `farthing keys create` makes one",
            reason="KEY_MISSING",
        )
    return outgoing_metadata(request[CALL].span.context, key)


def reply_json(
    body: object, headers: dict[str, str], *, status: int = 200
) -> web.StreamResponse:
    """A JSON reply."""
    return web.Response(
        body=dump(body), status=status, headers=headers, content_type="application/json"
    )


class Edge:
    """The middleware around all handlers."""

    def __init__(self, recorder: SpanRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._durations = metrics.histogram(
            names.METRIC_HTTP_DURATION, "Duration of HTTP requests.", ("route", "status")
        )
        self._active: Gauge = metrics.gauge(
            names.METRIC_HTTP_IN_FLIGHT, "HTTP requests being served."
        )
        self._children: dict[tuple[str, int], Histogram] = {}

    def middleware(self) -> Middleware:
        """As aiohttp takes it."""

        @web.middleware
        async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._serve(request, handler)

        return around

    async def _serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unknown"
        started_s = time.perf_counter()
        parent = TraceContext.from_traceparent(request.headers.get("traceparent"))
        if route in _UNTRACED:
            parent = TraceContext(new_trace_id(), new_span_id(), False)
        span = self._recorder.start(
            f"{request.method} {route}",
            names.KIND_SERVER,
            parent,
            {names.HTTP_REQUEST_METHOD: request.method, names.HTTP_ROUTE: route},
        )
        call = request[CALL] = Call("", span)
        status = 499  # what stands when the client goes away
        self._active.inc()
        try:
            response = await self._answer(request, handler, call)
            status = response.status
            return response
        finally:
            self._active.dec()
            span.set(names.REQUEST_ID, call.request_id)
            span.set(names.HTTP_RESPONSE_STATUS_CODE, status)
            span.end("error" if status >= 500 else "unset")
            self._observe(route, status, time.perf_counter() - started_s)

    async def _answer(
        self, request: web.Request, handler: Handler, call: Call
    ) -> web.StreamResponse:
        try:
            given = _read_id(request)
            call.request_id, call.repeatable = given or new_id("req"), bool(given)
            return await handler(request)
        except FarthingError as error:
            failure = describe_failure(error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            failure = Failure(
                error.status, "invalid_request_error", _code(error), _explain(request, error)
            )
        except ConnectionResetError:
            raise  # the client went away while we wrote
        except Exception:
            _log.exception("unexpected error", extra=trace_fields(call.span.context))
            if call.started:
                raise
            failure = Failure(
                500, "server_error", "internal", "internal error; the gateway's log has details"
            )
        return reply_json(
            failure.body(), {**call.headers(), **failure.headers()}, status=failure.status
        )

    def _observe(self, route: str, status: int, duration_s: float) -> None:
        child = self._children.get((route, status))
        if child is None:
            child = self._children[route, status] = self._durations.labels(route, str(status))
        child.observe(duration_s)


def _read_id(request: web.Request) -> str:
    given = request.headers.get("idempotency-key", "")
    if len(given) > _ID_LIMIT or not given.isprintable() or not given.isascii():
        raise InvalidArgument(
            f"idempotency-key must be at most {_ID_LIMIT} printable characters",
            field="idempotency-key",
        )
    return given


def _code(error: web.HTTPException) -> str:
    return error.reason.lower().replace(" ", "_")


def _explain(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        return f"unknown path {request.path}; see /v1/models, /v1/chat/completions, /v1/completions"
    if error.status == 405:
        return f"{request.method} is not allowed on {request.path}"
    if error.status == 413:
        return "the body is too large; send less, or raise FARTHING_GATEWAY_MAX_BODY_BYTES"
    return error.reason
