"""Many requests over one kept call: what is ready for the caller goes out in one message."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.candidates import Generate, complete
from farthing.kit.errors import DeadlineExceeded, FarthingError, Internal, Unavailable
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc.deadlines import Deadlines
from farthing.kit.rpc.failure import encode_failure
from farthing.kit.rpc.kept_calls import KeptCalls
from farthing.kit.telemetry import names
from farthing.kit.telemetry.spans import Span

# A caller half-closes as soon as it has read that the instance stops; who has not by then is not waited for.
_LEAVE_S = 2.0
_SERVICE = "farthing.api.inference.v1.InferenceService"
_log = logging.getLogger(__name__)


async def relay(
    generate: Generate, context: grpc.aio.ServicerContext[Any, Any], kept_calls: KeptCalls
) -> None:
    """Serve one kept call until its caller or the service ends it; answers under way then are given up or finished.

    A caller that goes away cancels all its requests. A service that stops says so, begins no new ones, finishes the
    others, and lets the caller end the call: a client whose write meets a call that has ended loses what it has not
    read of it.
    """
    session = _Session(generate, context)
    reader = asyncio.create_task(session.read())
    ending = asyncio.create_task(kept_calls.wait_end())
    try:
        await asyncio.wait({reader, ending}, return_when=asyncio.FIRST_COMPLETED)
        session.close(tell=not reader.done())
        await session.finish()
        await asyncio.wait({reader}, timeout=_LEAVE_S)
        await session.finish()
    finally:
        reader.cancel()
        ending.cancel()
        session.cancel()


class _Session:
    def __init__(self, generate: Generate, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._generate, self._context = generate, context
        self._call = call_context.current()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._out: list[pb.RelayEvent] = []
        self._writer: asyncio.Task[None] | None = None
        self._closing = self._untold = False
        self._deadlines = Deadlines()

    async def read(self) -> None:
        """Take messages until the caller sends no more."""
        while (request := await self._context.read()) is not grpc.aio.EOF:
            self._take(request)

    def _take(self, request: pb.RelayRequest) -> None:
        for start in request.starts:
            if self._closing:
                refused = encode_failure(_closing_error())
                self._tell(pb.RelayEvent(id=start.id, failure=refused))
                continue
            task = asyncio.create_task(self._answer(start))
            self._tasks[start.id] = task
            task.add_done_callback(partial(self._forget, start.id))
        for job_id in request.cancel_ids:
            task_of = self._tasks.get(job_id)
            if task_of is not None:
                task_of.cancel()

    def _forget(self, job_id: int, _: object) -> None:
        self._tasks.pop(job_id, None)

    def close(self, *, tell: bool) -> None:
        """Refuse new requests from now on, so that nobody waits for them, and `tell` the caller so."""
        self._closing, self._untold = True, tell
        self._wake_writer()

    async def finish(self) -> None:
        """Return when every answer has gone out."""
        while self._tasks or self._writer is not None:
            await asyncio.wait(
                [*self._tasks.values(), *([self._writer] if self._writer else [])]
            )

    def cancel(self) -> None:
        """Give everything up."""
        for task in self._tasks.values():
            task.cancel()
        if self._writer is not None:
            self._writer.cancel()

    async def _answer(self, start: pb.RelayStart) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = start.timeout_ms / 1000 if start.timeout_ms > 0 else None
        deadline = None if timeout_s is None else loop.time() + timeout_s
        method = f"{_SERVICE}/{'Complete' if start.whole else 'Generate'}"
        call = self._call.item(method, start.traceparent, deadline)
        call_context.enter(call)
        try:
            with self._deadlines.within(timeout_s):
                await (self._complete(start) if start.whole else self._stream(start))
        except FarthingError as error:  # not kept: its traceback leads back to this frame
            self._fail(start, call.span, error)
        except TimeoutError:
            late = "the answer did not end before the caller's deadline"
            self._fail(start, call.span, DeadlineExceeded(late, reason="DEADLINE"))
        except asyncio.CancelledError:
            call.span.set(names.RPC_STATUS_CODE, "CANCELLED")
            call.span.end("error")
            raise
        except Exception:
            _log.exception("unexpected error in %s", method)
            unexpected = "internal error; the service's log has the details"
            self._fail(start, call.span, Internal(unexpected, reason="INTERNAL"))
        else:
            call.span.set(names.RPC_STATUS_CODE, "OK")
            call.span.end("ok")

    def _fail(self, start: pb.RelayStart, span: Span, error: FarthingError) -> None:
        self._tell(pb.RelayEvent(id=start.id, failure=encode_failure(error)))
        span.set(names.RPC_STATUS_CODE, error.reason)
        span.end("error", error.message)

    async def _stream(self, start: pb.RelayStart) -> None:
        async with aclosing(self._generate(start.request)) as events:
            async for event in events:
                if event.HasField("completion"):
                    self._tell(pb.RelayEvent(id=start.id, completion=event.completion))
                    continue
                self._tell(pb.RelayEvent(id=start.id, delta=event.delta))

    async def _complete(self, start: pb.RelayStart) -> None:
        answer = await complete(self._generate, start.request)
        self._tell(pb.RelayEvent(id=start.id, answer=answer))

    def _tell(self, event: pb.RelayEvent) -> None:
        self._out.append(event)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._writer is None and (self._out or self._untold):
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._out or self._untold:
                out, self._out = self._out, []
                closing, self._untold = self._untold, False
                await self._context.write(pb.RelayResponse(events=out, closing=closing))
        finally:
            self._writer = None


def _closing_error() -> Unavailable:
    return Unavailable("The instance is closing. Use another one.", reason="CLOSING")
