"""The rules around every handler: deadline, cancel, errors, traces and metrics, over a real socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from tests.support.probe_servicer import STREAM, UNARY, ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.kit import errors
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecord, SpanRecorder, TraceContext
from farthing.kit.testing import eventually

ASK = pb.ListModelsRequest()
ASK_STREAM = pb.GenerateRequest()
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Unary = Callable[[], Awaitable[pb.ListModelsResponse]]
Stream = Callable[[], AsyncGenerator[pb.GenerateResponse]]


@dataclass
class Probe:
    """A served probe and what it leaves behind."""

    stub: Any
    recorder: SpanRecorder
    metrics: Metrics

    async def span(self) -> SpanRecord:
        """The one span that the call leaves."""
        await eventually(lambda: self.recorder.waiting_count == 1, what="one span")
        (record,) = self.recorder.drain(10)
        return record

    def count(self, method: str, code: str) -> float:
        """Calls counted."""
        name = f"{names.METRIC_CALL_DURATION}_count"
        labels = {"method": method, "code": code}
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def in_flight(self, method: str) -> float | None:
        """Calls said to be open."""
        labels = {"method": method}
        return self.metrics.registry.get_sample_value(names.METRIC_CALLS_IN_FLIGHT, labels)


@asynccontextmanager
async def probing(servicer: ProbeServicer) -> AsyncIterator[Probe]:
    recorder, metrics = SpanRecorder(), Metrics("probe")
    server = RpcServer("127.0.0.1:0", recorder=recorder, metrics=metrics, drain_ms=0)
    server.add(pb_grpc.add_InferenceServiceServicer_to_server, servicer)
    await server.start()
    channel = open_channel(f"127.0.0.1:{server.port}")
    try:
        yield Probe(pb_grpc.InferenceServiceStub(channel), recorder, metrics)
    finally:
        await channel.close()
        await server.stop()


async def endless() -> pb.ListModelsResponse:
    await asyncio.Event().wait()
    raise AssertionError


# -- deadlines -------------------------------------------------------------------------------


async def test_a_handler_is_told_of_the_deadline_less_a_margin_and_stopped_by_it() -> None:
    stopped = asyncio.Event()
    left: list[float] = []

    async def slow() -> pb.ListModelsResponse:
        deadline = call_context.current().deadline
        assert deadline is not None
        left.append(deadline - asyncio.get_running_loop().time())
        try:
            return await endless()
        finally:
            stopped.set()

    async with probing(ProbeServicer(slow)) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe.stub.ListModels(ASK, timeout=0.5)
        # The service's own words, so it answered before the caller's clock ran out.
        error = decode_error(caught.value)
        assert isinstance(error, errors.DeadlineExceeded)
        assert error.reason == "DEADLINE"
        assert UNARY in error.message
        assert 0 < left[0] < 0.5
        await eventually(stopped.is_set)
        assert (await probe.span()).attributes[names.RPC_STATUS_CODE] == "DEADLINE_EXCEEDED"
        assert probe.count(UNARY, "DEADLINE_EXCEEDED") == 1


async def test_a_stream_out_of_time_ends_with_the_services_own_words_after_what_it_had() -> (
    None
):
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[pb.GenerateResponse]:
        try:
            yield pb.GenerateResponse()
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with probing(ProbeServicer(stream=events)) as probe:
        call = probe.stub.Generate(ASK_STREAM, timeout=0.5)
        assert await call.read() == pb.GenerateResponse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert decode_error(caught.value).reason == "DEADLINE"
        await eventually(closed.is_set)


async def test_a_unary_call_without_a_deadline_gets_one_and_a_stream_does_not() -> None:
    seen: list[float | None] = []

    async def unary() -> pb.ListModelsResponse:
        seen.append(call_context.current().deadline)
        return pb.ListModelsResponse()

    async def events() -> AsyncGenerator[pb.GenerateResponse]:
        seen.append(call_context.current().deadline)
        yield pb.GenerateResponse()

    async with probing(ProbeServicer(unary, events)) as probe:
        await probe.stub.ListModels(ASK)
        assert [event async for event in probe.stub.Generate(ASK_STREAM)]
    assert seen[0] is not None
    assert seen[1] is None


# -- cancels ---------------------------------------------------------------------------------


async def test_a_cancel_closes_a_streaming_handlers_generator() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[pb.GenerateResponse]:
        try:
            while True:
                yield pb.GenerateResponse()
                await asyncio.Event().wait()
        finally:
            closed.set()

    async with probing(ProbeServicer(stream=events)) as probe:
        call = probe.stub.Generate(ASK_STREAM)
        await call.read()
        assert probe.in_flight(STREAM) == 1
        call.cancel()
        await eventually(closed.is_set, what="the generator closed")
        span = await probe.span()
        assert span.attributes[names.RPC_STATUS_CODE] == "CANCELLED"
        assert probe.count(STREAM, "CANCELLED") == 1
        assert probe.in_flight(STREAM) == 0


async def test_a_cancel_closes_a_generator_that_only_sends() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[pb.GenerateResponse]:
        text = "x" * 100_000  # a reader that stops reading soon makes writing wait
        try:
            while True:
                yield pb.GenerateResponse(delta=pb.Delta(text=text))
        finally:
            closed.set()

    async with probing(ProbeServicer(stream=events)) as probe:
        call = probe.stub.Generate(ASK_STREAM)
        await call.read()
        call.cancel()
        await eventually(closed.is_set, what="the generator closed")


async def test_a_cancel_stops_a_unary_handler() -> None:
    entered, stopped = asyncio.Event(), asyncio.Event()

    async def slow() -> pb.ListModelsResponse:
        entered.set()
        try:
            return await endless()
        finally:
            stopped.set()

    async with probing(ProbeServicer(slow)) as probe:
        call = probe.stub.ListModels(ASK)
        await entered.wait()
        call.cancel()
        await eventually(stopped.is_set)
        assert (await probe.span()).attributes[names.RPC_STATUS_CODE] == "CANCELLED"


async def test_work_that_was_cancelled_behind_a_handler_is_answered_and_not_left_hanging() -> (
    None
):
    async def waits_for_cancelled_work() -> pb.ListModelsResponse:
        task = asyncio.ensure_future(endless())
        task.cancel()
        return await task

    async with probing(ProbeServicer(waits_for_cancelled_work)) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe.stub.ListModels(ASK, timeout=5)
        error = decode_error(caught.value)
        assert isinstance(error, errors.Unavailable)
        assert error.reason == "WORK_CANCELLED"


# -- errors ----------------------------------------------------------------------------------


async def test_an_unexpected_error_says_nothing_to_the_caller_and_everything_to_the_log_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken() -> pb.ListModelsResponse:
        raise RuntimeError("password=hunter2")

    async with probing(ProbeServicer(broken)) as probe:
        with (
            caplog.at_level(logging.DEBUG, "farthing"),
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await probe.stub.ListModels(ASK, timeout=5)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "hunter2" not in str(caught.value.details())
        assert "hunter2" not in str(caught.value.trailing_metadata())
        assert decode_error(caught.value).reason == "INTERNAL"
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert record.exc_info
        assert UNARY in record.getMessage()
        span = await probe.span()
        assert span.status == "error"
        assert record.__dict__["trace_id"] == span.context.trace_id


async def test_an_unexpected_error_in_a_stream_is_internal_after_what_was_sent() -> None:
    async def events() -> AsyncGenerator[pb.GenerateResponse]:
        yield pb.GenerateResponse()
        raise KeyError("secret")

    async with probing(ProbeServicer(stream=events)) as probe:
        call = probe.stub.Generate(ASK_STREAM)
        assert await call.read() == pb.GenerateResponse()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert decode_error(caught.value).reason == "INTERNAL"
        assert probe.count(STREAM, "INTERNAL") == 1


async def test_a_refusal_is_not_worth_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse() -> pb.ListModelsResponse:
        raise errors.NotFound("no such model", reason="MODEL_UNKNOWN")

    async with probing(ProbeServicer(refuse)) as probe:
        with caplog.at_level(logging.INFO), pytest.raises(grpc.aio.AioRpcError):
            await probe.stub.ListModels(ASK, timeout=5)
        assert not caplog.records
        assert probe.count(UNARY, "NOT_FOUND") == 1


async def test_an_error_of_a_service_behind_is_handed_on_as_it_was() -> None:
    async def behind() -> pb.ListModelsResponse:
        raise errors.ResourceExhausted("full", reason="QUEUE_FULL", retry_after_ms=50)

    async with probing(ProbeServicer(behind)) as second:

        async def front() -> pb.ListModelsResponse:
            response: pb.ListModelsResponse = await second.stub.ListModels(ASK, timeout=5)
            return response

        async with probing(ProbeServicer(front)) as first:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await first.stub.ListModels(ASK, timeout=5)
    error = decode_error(caught.value)
    assert isinstance(error, errors.ResourceExhausted)
    assert (error.reason, error.retry_after_ms) == ("QUEUE_FULL", 50)


# -- traces, keys and metrics ----------------------------------------------------------------


async def test_a_callers_trace_goes_on_in_a_child_span() -> None:
    seen: list[TraceContext] = []

    async def look() -> pb.ListModelsResponse:
        seen.append(call_context.current().trace)
        return pb.ListModelsResponse()

    async with probing(ProbeServicer(look)) as probe:
        caller = TraceContext.from_traceparent(TRACEPARENT)
        await probe.stub.ListModels(ASK, metadata=outgoing_metadata(caller))
        span = await probe.span()
    assert caller is not None
    assert span.context.trace_id == caller.trace_id
    assert span.parent_span_id == caller.span_id
    assert span.context.span_id != caller.span_id
    assert seen == [span.context]
    assert (span.name, span.kind, span.status) == (UNARY, "server", "ok")
    assert span.attributes[names.RPC_METHOD] == UNARY
    assert span.attributes[names.RPC_STATUS_CODE] == "OK"
    assert span.end_ns >= span.start_ns


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        TRACEPARENT.replace("4bf9", "4BF9"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"{TRACEPARENT}-more",
        f"ff{TRACEPARENT[2:]}",
    ],
)
async def test_a_trace_that_cannot_be_read_starts_a_new_one(bad: str) -> None:
    async with probing(ProbeServicer()) as probe:
        await probe.stub.ListModels(ASK, metadata=(("traceparent", bad),))
        span = await probe.span()
    assert span.parent_span_id == ""
    assert span.context.trace_id.lower() != TRACEPARENT[3:35]


async def test_a_trace_nobody_records_is_followed_but_not_recorded() -> None:
    seen: list[TraceContext] = []

    async def look() -> pb.ListModelsResponse:
        seen.append(call_context.current().trace)
        return pb.ListModelsResponse()

    async with probing(ProbeServicer(look)) as probe:
        metadata = (("traceparent", f"{TRACEPARENT[:-2]}00"),)
        await probe.stub.ListModels(ASK, metadata=metadata)
        await eventually(lambda: probe.count(UNARY, "OK") == 1)
        assert probe.recorder.waiting_count == 0
    assert seen[0].trace_id == TRACEPARENT[3:35]
    assert not seen[0].sampled


@pytest.mark.parametrize(
    ("metadata", "key"),
    [
        ((), None),
        ((("authorization", "Bearer fk-one"),), "fk-one"),
        ((("authorization", "bearer  fk-one "),), "fk-one"),
        (outgoing_metadata(None, "fk-one"), "fk-one"),
    ],
)
async def test_handlers_learn_the_callers_key(
    metadata: tuple[tuple[str, str], ...], key: str | None
) -> None:
    seen: list[call_context.CallContext] = []

    async def look() -> pb.ListModelsResponse:
        seen.append(call_context.current())
        return pb.ListModelsResponse()

    async with probing(ProbeServicer(look)) as probe:
        await probe.stub.ListModels(ASK, metadata=metadata)
    assert seen[0].api_key == key
    if key is None:
        with pytest.raises(errors.Unauthenticated) as caught:
            seen[0].require_key_digest()
        assert caught.value.reason == "KEY_MISSING"
    else:
        assert len(seen[0].require_key_digest()) == 32


async def test_calls_at_the_same_time_do_not_see_each_others_context() -> None:
    both = asyncio.Barrier(2)
    seen: set[tuple[str, str | None]] = set()

    async def look() -> pb.ListModelsResponse:
        before = call_context.current()
        await both.wait()
        assert call_context.current() is before
        seen.add((before.trace.trace_id, before.api_key))
        return pb.ListModelsResponse()

    async with probing(ProbeServicer(look)) as probe:
        await asyncio.gather(
            *(
                probe.stub.ListModels(ASK, metadata=outgoing_metadata(None, key), timeout=10)
                for key in ("fk-a", "fk-b")
            )
        )
    assert {key for _, key in seen} == {"fk-a", "fk-b"}
    assert len({trace_id for trace_id, _ in seen}) == 2


async def test_calls_are_counted_by_method_and_code() -> None:
    async with probing(ProbeServicer()) as probe:
        for _ in range(3):
            await probe.stub.ListModels(ASK)
        assert [event async for event in probe.stub.Generate(ASK_STREAM)]
        await eventually(lambda: probe.count(STREAM, "OK") == 1)
        assert probe.count(UNARY, "OK") == 3
        assert probe.in_flight(UNARY) == probe.in_flight(STREAM) == 0


async def test_a_streaming_handler_that_cannot_be_closed_is_a_defect() -> None:
    class Plain(ProbeServicer):
        def Generate(self, request: Any, context: Any) -> Any:
            return _PlainIterator()

    async with probing(Plain()) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await probe.stub.Generate(ASK_STREAM).read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL


class _PlainIterator:
    def __aiter__(self) -> _PlainIterator:
        return self

    async def __anext__(self) -> pb.GenerateResponse:
        return pb.GenerateResponse()
