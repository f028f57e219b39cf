"""Many requests over one kept call, over a real socket: answers, errors, cancels, loss, drain, old instances."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import pytest

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from farthing.clients.instances.relay import NoRelay, Relay
from farthing.inference.relay import relay
from farthing.kit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.kept_calls import KeptCalls
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.kit.testing import eventually

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Speller(InferenceServiceServicer):
    """Spells the prompt, a letter an event; waits at "…" until the gate opens."""

    def __init__(self) -> None:
        self.kept_calls = KeptCalls()
        self.gate = asyncio.Event()
        self.running: set[str] = set()
        self.call_count = 0

    async def Relay(self, requests: object, context: Any) -> None:  # type: ignore[override]
        self.call_count += 1
        await relay(self.spell, context, self.kept_calls)

    async def spell(self, request: pb.GenerateRequest) -> AsyncGenerator[pb.GenerateResponse]:
        prompt = request.input.prompt
        self.running.add(prompt)
        try:
            if prompt == "bad":
                raise InvalidArgument("input.prompt is bad", field="input.prompt")
            if prompt == "full":
                raise ResourceExhausted("full", reason="QUEUE_FULL", retry_after_ms=70)
            for letter in prompt:
                if letter == "…":
                    await self.gate.wait()
                yield pb.GenerateResponse(delta=pb.Delta(text=letter, token_count=1))
                await asyncio.sleep(0)  # so that an answer takes several messages
            yield pb.GenerateResponse(
                completion=pb.Completion(finish_reason=common_pb2.FINISH_REASON_STOP)
            )
        finally:
            self.running.discard(prompt)

    async def _not_here(self, request: Any, context: Any) -> Any:
        raise Unimplemented("only Relay is here", reason="NOT_HERE")

    Generate = Complete = Embed = ListModels = WatchLoad = _not_here  # type: ignore[assignment]


class Lab:
    """A server with the speller, and a relay to it."""

    def __init__(self) -> None:
        self.speller, self.recorder = Speller(), SpanRecorder()
        self.server = RpcServer(
            "127.0.0.1:0", recorder=self.recorder, metrics=Metrics("lab"), drain_ms=10_000
        )
        self.server.add(
            add_InferenceServiceServicer_to_server,
            self.speller,
            end_streams=self.speller.kept_calls.end,
        )
        self.relay: Relay

    async def start(self) -> None:
        await self.server.start()
        self.channel = open_channel(f"127.0.0.1:{self.server.port}")
        self.relay = Relay(InferenceServiceStub(self.channel).Relay)

    async def whole(self, prompt: str, timeout_s: float = 30) -> str:
        answer = await self.relay.complete(
            ask(prompt), timeout_s=timeout_s, traceparent=TRACEPARENT
        )
        return answer.text

    async def stream(self, prompt: str) -> list[pb.RelayEvent]:
        events = self.relay.generate(ask(prompt), timeout_s=30, traceparent=TRACEPARENT)
        async with aclosing(events):
            return [event async for event in events]

    async def waits(self, prompt: str) -> asyncio.Task[str]:
        """A whole answer under way."""
        task = asyncio.create_task(self.whole(prompt))
        await eventually(lambda: prompt in self.speller.running)
        return task


def ask(prompt: str) -> pb.GenerateRequest:
    return pb.GenerateRequest(input=pb.GenerationInput(prompt=prompt))


@contextmanager
def _in_a_thread() -> Iterator[tuple[asyncio.AbstractEventLoop, Lab]]:
    """A lab whose server has a thread and a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> Lab:
        lab = Lab()
        await lab.server.start()
        return lab

    try:
        yield loop, asyncio.run_coroutine_threadsafe(begin(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab()
    await lab.start()
    yield lab
    lab.speller.gate.set()
    await lab.relay.close()
    await lab.channel.close()
    await lab.server.stop()


async def test_whole_and_streamed_answers_share_one_call(lab: Lab) -> None:
    streamed = asyncio.create_task(lab.stream("ab"))
    wholes = await asyncio.gather(*(lab.whole(f"word {n}") for n in range(20)))
    events = await streamed
    assert wholes == [f"word {n}" for n in range(20)]
    assert [event.delta.text for event in events[:-1]] == ["a", "b"]
    assert events[-1].completion.finish_reason == common_pb2.FINISH_REASON_STOP
    assert lab.speller.call_count == 1


async def test_an_error_is_its_requests_own_and_the_call_goes_on(lab: Lab) -> None:
    waiting = await lab.waits("later…")
    with pytest.raises(InvalidArgument) as bad:
        await lab.whole("bad")
    assert bad.value.field == "input.prompt"
    with pytest.raises(ResourceExhausted) as full:
        await lab.stream("full")
    assert (full.value.reason, full.value.retry_after_ms) == ("QUEUE_FULL", 70)
    lab.speller.gate.set()
    assert await waiting == "later…"
    assert lab.speller.call_count == 1


async def test_a_caller_that_goes_away_frees_the_engine(lab: Lab) -> None:
    whole = await lab.waits("whole…")
    whole.cancel()
    await eventually(lambda: not lab.speller.running)
    async with aclosing(lab.relay.generate(ask("s…"), timeout_s=30, traceparent="")) as events:
        await anext(events)
    await eventually(lambda: not lab.speller.running)
    assert await lab.whole("still here") == "still here"


async def test_a_request_has_a_deadline_of_its_own(lab: Lab) -> None:
    with pytest.raises(DeadlineExceeded):
        await lab.whole("never…", timeout_s=0.1)
    assert not lab.speller.running


async def test_each_request_is_a_span_of_its_own_trace(lab: Lab) -> None:
    await asyncio.gather(lab.whole("one"), lab.stream("two"))
    records = lab.recorder.drain(10)
    names = sorted(record.name.rpartition("/")[2] for record in records)
    assert names == ["Complete", "Generate"]
    assert {record.context.trace_id for record in records} == {TRACEPARENT[3:35]}
    assert {record.parent_span_id for record in records} == {TRACEPARENT[36:52]}


async def test_a_lost_call_fails_what_is_under_way_and_the_next_request_begins_another(
    lab: Lab,
) -> None:
    waiting = [await lab.waits(f"{n}…") for n in range(3)]
    port = lab.server.port
    await lab.channel.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in results)
    await eventually(lambda: not lab.speller.running)
    lab.channel = open_channel(f"127.0.0.1:{port}")
    lab.relay = Relay(InferenceServiceStub(lab.channel).Relay)
    assert await lab.whole("again") == "again"


async def test_a_draining_instance_finishes_its_answers_and_refuses_new_ones(lab: Lab) -> None:
    waiting = await lab.waits("finish me…")
    stopping = asyncio.create_task(lab.server.stop())
    await eventually(lambda: lab.speller.kept_calls.is_ending)
    with pytest.raises(Unavailable):
        await lab.whole("too late")
    lab.speller.gate.set()
    assert await waiting == "finish me…"
    async with asyncio.timeout(1):  # it need not wait for callers that are done
        await stopping
    with pytest.raises(Unavailable) as gone:
        await lab.whole("much too late")
    assert gone.value.reason == "INSTANCE_LOST"


def test_what_a_stopping_instance_has_answered_is_read_also_by_a_caller_that_goes_on_asking() -> (
    None
):
    prompt = "a…" + "bcdefgh" * 20
    with _in_a_thread() as (server_loop, lab):

        async def ask_in_a_busy_process() -> None:
            channel = open_channel(f"127.0.0.1:{lab.server.port}")
            relay = Relay(InferenceServiceStub(channel).Relay)
            events = relay.generate(ask(prompt), timeout_s=30, traceparent=TRACEPARENT)
            async with aclosing(events):
                texts = [(await anext(events)).delta.text]
                # The instance answers and stops while this process does something else.
                server_loop.call_soon_threadsafe(lab.speller.gate.set)
                stopping = asyncio.run_coroutine_threadsafe(lab.server.stop(), server_loop)
                concurrent.futures.wait([stopping], timeout=0.5)
                late = asyncio.create_task(
                    relay.complete(ask("late"), timeout_s=30, traceparent=TRACEPARENT)
                )
                await asyncio.sleep(0)
                texts += [event.delta.text async for event in events]
            assert "".join(texts) == prompt
            with pytest.raises(Unavailable):
                await late
            await asyncio.wrap_future(stopping)
            await relay.close()
            await channel.close()

        asyncio.run(ask_in_a_busy_process())


async def test_an_idle_call_does_not_hold_up_a_drain(lab: Lab) -> None:
    await lab.whole("a")
    async with asyncio.timeout(5):
        await lab.server.stop()


async def test_a_caller_that_never_leaves_does_not_hold_up_a_drain(lab: Lab) -> None:
    call: Any = InferenceServiceStub(lab.channel).Relay()
    await call.write(
        pb.RelayRequest(starts=[pb.RelayStart(id=1, request=ask("a"), whole=True)])
    )
    assert (await call.read()).events[0].answer.text == "a"
    async with asyncio.timeout(5):
        await lab.server.stop()
    assert (await call.read()).closing
    assert await call.read() is grpc.aio.EOF


async def test_closing_gives_requests_their_time_and_then_ends_them(lab: Lab) -> None:
    first = await lab.waits("first…")
    closing = asyncio.create_task(lab.relay.close(20))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await lab.whole("late")
    lab.speller.gate.set()
    assert await first == "first…"
    await closing


async def test_an_instance_without_the_rpc_is_told_apart(lab: Lab) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        old = Relay(InferenceServiceStub(channel).Relay)
        with pytest.raises(NoRelay):
            await old.complete(ask("a"), timeout_s=10, traceparent="")
        await old.close()
    await server.stop(0)
