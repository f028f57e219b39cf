"""Wraps each RPC handler once, at registration: tracing, deadline, errors and metrics without extra awaits.

grpc.aio's interceptor chain costs a lookup and two awaits per call; wrapping the handler table costs them once.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from grpc_status import rpc_status

from farthing.kit import errors
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc import status
from farthing.kit.rpc.deadlines import Deadlines
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder, TraceContext

# Kept back from the caller's deadline so that whoever knows why can say so; less than this left is refused at once.
_MARGIN_S = 0.02
_LEAST_S = 0.005
_DEFAULT_UNARY_S = 300.0
_OK = grpc.StatusCode.OK.name

_log = logging.getLogger(__name__)
# Handlers as registered: the stubs type them for the synchronous server.
_Unary = Callable[[Any, Any], Any]
_Stream = Callable[[Any, Any], Any]


class Wrapper:
    """Puts the house rules around handlers. One per server."""

    def __init__(self, recorder: SpanRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._deadlines = Deadlines()

    def wrap(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> grpc.GenericRpcHandler:
        """Wrap a service's handler table. A stream to a single answer is used in none of our contracts."""
        wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for name, handler in handlers.items():
            method = f"{service}/{name}"
            codec = (handler.request_deserializer, handler.response_serializer)
            if handler.unary_unary:
                wrapped[name] = grpc.unary_unary_rpc_method_handler(
                    self._unary(method, handler.unary_unary), *codec
                )
            elif handler.unary_stream:
                wrapped[name] = grpc.unary_stream_rpc_method_handler(
                    self._stream(method, handler.unary_stream), *codec
                )
            elif handler.stream_stream:
                # The requests are the caller's first argument; the rules around the call are the same.
                wrapped[name] = grpc.stream_stream_rpc_method_handler(
                    self._stream(method, handler.stream_stream), *codec
                )
            else:
                raise TypeError(
                    f"{method}: streams to a single answer are not part of our contracts"
                )
        return grpc.method_handlers_generic_handler(service, wrapped)

    def _unary(self, method: str, inner: _Unary) -> _Unary:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            scope = _Scope(self, method, context, default_s=_DEFAULT_UNARY_S)
            try:
                with self._deadlines.within(scope.budget_s):
                    response = await inner(request, context)
            except BaseException as error:
                if not await scope.answered(error):
                    raise
                return None
            scope.end(_OK)
            return response

        return call

    def _stream(self, method: str, inner: _Stream) -> Callable[..., Awaitable[None]]:
        """A handler of a stream either yields its messages or, as a coroutine, writes them to the context itself."""
        respond = inner if inspect.iscoroutinefunction(inner) else _write_all(inner)

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            scope = _Scope(self, method, context, default_s=None)
            try:
                with self._deadlines.within(scope.budget_s):
                    await respond(request, context)
            except BaseException as error:
                if not await scope.answered(error):
                    raise
                return
            scope.end(_OK)

        return call


def _write_all(inner: _Stream) -> _Stream:
    async def respond(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        messages = inner(request, context)
        if not hasattr(messages, "aclose"):
            raise TypeError(
                "a streaming handler must be an async generator, so that a cancel closes it, or a coroutine"
            )
        async with aclosing(messages):
            async for message in messages:
                await context.write(message)

    return respond


def _is_being_cancelled() -> bool:
    """Whether this call itself is cancelled, and not just work that it waited for.

    grpc.aio sends no status after a CancelledError, so the caller of the latter would wait for its deadline.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Scope:
    """One call from entry to end."""

    __slots__ = ("_call", "_context", "_owner", "_started", "budget_s")

    def __init__(
        self,
        owner: Wrapper,
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        default_s: float | None,
    ) -> None:
        self._owner, self._context, self._started = owner, context, time.perf_counter()
        traceparent = api_key = None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                text = value if isinstance(value, str) else value.decode("latin-1")
                api_key = text[7:].strip() if text[:7].lower() == "bearer " else text
            elif key == "traceparent":
                traceparent = value if isinstance(value, str) else None
        span = owner._recorder.start(
            method,
            names.KIND_SERVER,
            TraceContext.from_traceparent(traceparent),
            call_context.describe_method(method),
        )
        remaining = context.time_remaining()
        self.budget_s = default_s if remaining is None else max(0.0, remaining - _MARGIN_S)
        deadline = None if self.budget_s is None else time.monotonic() + self.budget_s
        self._call = call_context.CallContext(
            method, span.context, span, api_key, deadline, owner._recorder
        )
        call_context.enter(self._call)
        owner._metrics.rpc_started(method)
        if remaining is not None and remaining < _LEAST_S:
            self.budget_s = 0.0

    def end(self, code: str) -> None:
        """The call has ended with the status of that name."""
        span = self._call.span
        span.set(names.RPC_STATUS_CODE, code)
        span.end("ok" if code == _OK else "error")
        self._owner._metrics.rpc_ended(
            self._call.method, code, time.perf_counter() - self._started
        )

    async def answered(self, error: BaseException) -> bool:
        """Give the caller the error's status. False if the error must go on as it is."""
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            self.end(grpc.StatusCode.CANCELLED.name)
            return False
        if isinstance(error, grpc.aio.AbortError) or not isinstance(
            error, Exception | asyncio.CancelledError
        ):
            self.end(grpc.StatusCode.UNKNOWN.name)
            return False
        domain = self._translate(error)
        self.end(status.code_of(domain).name)
        try:
            await self._context.abort_with_status(
                rpc_status.to_status(status.encode_error(domain))
            )
        except grpc.aio.AbortError as aborted:
            # The call keeps it and raises it again once its handler has returned. Its traceback leads back to the
            # call: both would stay until the garbage collector comes.
            aborted.__traceback__ = aborted.__context__ = None
        return True

    def _translate(self, error: BaseException) -> errors.FarthingError:
        if isinstance(error, errors.FarthingError):
            return error
        if isinstance(error, asyncio.CancelledError):
            return errors.Unavailable(
                f"the service gave up the work of {self._call.method}, most likely because it stops; try again",
                reason="WORK_CANCELLED",
            )
        if isinstance(error, TimeoutError):
            return errors.DeadlineExceeded(
                f"{self._call.method} did not finish before the caller's deadline",
                reason="DEADLINE",
            )
        if isinstance(error, grpc.aio.AioRpcError):
            return status.decode_error(error)
        _log.exception(
            "unexpected error in %s",
            self._call.method,
            extra={"trace_id": self._call.trace.trace_id},
        )
        return errors.Internal(
            "internal error; the service's log has the details", reason="INTERNAL"
        )
