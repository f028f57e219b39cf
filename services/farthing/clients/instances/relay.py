"""Requests to one instance over one kept call: what is asked in a turn of the loop goes in one message."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.kit.errors import FarthingError, Unavailable
from farthing.kit.ids import new_span_id, new_trace_id
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.rpc.failure import decode_failure
from farthing.kit.telemetry.spans import TraceContext

_CALL_S = 3_600.0
# New requests go by another call from here on, so that this one can end when its last answer has.
_RENEW_S = 3_000.0


class NoRelay(Exception):
    """The instance has no such rpc: ask by calls of their own."""


class Relay:
    """Asks one instance. Use from one event loop.

    When the call breaks, every request under way fails with Unavailable, and the next one begins another call.
    """

    def __init__(self, open_call: Callable[..., Any]) -> None:
        self._open_call = open_call
        self._ids = itertools.count(1)
        self._line: _Line | None = None
        self._lines: set[_Line] = set()
        self._closed = False

    async def complete(
        self, request: pb.GenerateRequest, *, timeout_s: float, traceparent: str
    ) -> pb.CompleteResponse:
        """The whole answer. Cancelling frees the engine. Errors as of the rpc Complete; NoRelay."""
        line, asked = self._begin(request, True, timeout_s, traceparent)
        try:
            while not asked.ready:
                await asked.changed()
            event = asked.ready.popleft()
        finally:
            line.leave(asked)
        if isinstance(event, Exception):
            raise event
        return event.answer

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float, traceparent: str
    ) -> AsyncGenerator[pb.RelayEvent]:
        """Deltas, then one completion. Closing it frees the engine. Errors as of the rpc Generate; NoRelay."""
        line, asked = self._begin(request, False, timeout_s, traceparent)
        try:
            while True:
                while not asked.ready:
                    await asked.changed()
                event = asked.ready.popleft()
                if isinstance(event, Exception):
                    raise event
                yield event
                if event.HasField("completion"):
                    return
        finally:
            line.leave(asked)

    async def close(self, grace_s: float = 0.0) -> None:
        """Take no more requests; those under way get `grace_s` to end, and then fail."""
        self._closed = True
        lines = list(self._lines)
        try:
            async with asyncio.timeout(grace_s):
                for line in lines:
                    await line.unused.wait()
        except TimeoutError:
            pass
        for line in lines:
            line.task.cancel()
        if lines:
            await asyncio.wait([line.task for line in lines])

    def _drop(self, line: _Line, _: object) -> None:
        self._lines.discard(line)

    def _begin(
        self, request: pb.GenerateRequest, whole: bool, timeout_s: float, traceparent: str
    ) -> tuple[_Line, _Asked]:
        if self._closed:
            raise _broken("the client is closed")
        now = asyncio.get_running_loop().time()
        if self._line is not None and now > self._line.renew_s:
            self._line.retire()
        if self._line is None or self._line.takes_no_more:
            self._line = _Line(self._open_call, now + _RENEW_S)
            self._lines.add(self._line)
            self._line.task.add_done_callback(partial(self._drop, self._line))
        asked = _Asked(next(self._ids))
        self._line.begin(
            asked,
            pb.RelayStart(
                id=asked.id,
                request=request,
                whole=whole,
                timeout_ms=max(1, round(timeout_s * 1000)),
                traceparent=traceparent,
            ),
        )
        return self._line, asked


class _Asked:
    """One request and the events of it that nobody has taken yet."""

    __slots__ = ("_waiter", "ended", "id", "ready")

    def __init__(self, job_id: int) -> None:
        self.id, self.ended = job_id, False
        self.ready: deque[pb.RelayEvent | Exception] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def changed(self) -> asyncio.Future[None]:
        """Done when something is ready."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def put(self, event: pb.RelayEvent | Exception) -> None:
        self.ready.append(event)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class _Line:
    """One kept call."""

    def __init__(self, open_call: Callable[..., Any], renew_s: float) -> None:
        self._open_call = open_call
        self._asked: dict[int, _Asked] = {}
        self._next = pb.RelayRequest()
        self._idle: asyncio.Future[None] | None = None
        self._is_leaving = self._is_over = False
        self.renew_s = renew_s
        self.unused = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    @property
    def takes_no_more(self) -> bool:
        """Whether the call has ended, or is about to."""
        return self._is_leaving or self._is_over

    def begin(self, asked: _Asked, start: pb.RelayStart) -> None:
        self._asked[asked.id] = asked
        self.unused.clear()
        self._next.starts.append(start)
        self._wake()

    def retire(self) -> None:
        """Send no more requests, and end the call when no request of it needs cancelling any more."""
        self._is_leaving = True
        self._wake()

    def leave(self, asked: _Asked) -> None:
        """Nobody waits for the request any more."""
        if self._asked.pop(asked.id, None) is None:
            return
        if not self._asked:
            self.unused.set()
        if asked.ended:
            return
        self._next.cancel_ids.append(asked.id)
        self._wake()

    async def _run(self) -> None:
        loss: Exception = _broken("it ended the call")
        try:
            # A call of an hour belongs to no request's trace, and is none of its own.
            unrecorded = TraceContext(new_trace_id(), new_span_id(), False)
            call = self._open_call(timeout=_CALL_S, metadata=outgoing_metadata(unrecorded))
            writer = asyncio.ensure_future(self._write(call))
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    self._take(message)
            finally:
                writer.cancel()
                call.cancel()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                loss = NoRelay()
            else:
                loss = _broken(decode_error(error).message)
        except asyncio.CancelledError:
            loss = _broken("the client is closed")
        finally:
            self._is_over = True
            self.unused.set()
            asked, self._asked = list(self._asked.values()), {}
            for one in asked:
                one.ended = True
                one.put(loss)

    async def _write(self, call: Any) -> None:
        while True:
            if not self._next.starts and not self._next.cancel_ids:
                if self._is_leaving and all(asked.ended for asked in self._asked.values()):
                    await call.done_writing()
                    return
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
                continue
            message, self._next = self._next, pb.RelayRequest()
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reader knows why

    def _take(self, message: pb.RelayResponse) -> None:
        for event in message.events:
            asked = self._asked.get(event.id)
            if asked is None:
                continue
            if event.HasField("failure"):
                asked.ended = True
                asked.put(decode_failure(event.failure))
                continue
            asked.ended = not event.HasField("delta")
            asked.put(event)
        if message.closing or self._is_leaving:
            self.retire()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)


def _broken(why: str) -> FarthingError:
    return Unavailable(
        f"the instance does not answer: {why}", reason="INSTANCE_LOST", retry_after_ms=100
    )
