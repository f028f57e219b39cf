from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from tests.support.stepped_backend import SteppedBackend

from farthing.inference.backend import ChatMessage
from farthing.inference.engine import (
    DoneEvent,
    EngineEvent,
    EngineRequest,
    FinishReason,
    Priority,
    TokenEvent,
)
from farthing.inference.serial import EngineLimits, SerialEngine
from farthing.kit.errors import (
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from farthing.kit.testing import eventually


class Finished:
    """An Observer that remembers."""

    def __init__(self) -> None:
        self.ends: dict[str, DoneEvent] = {}

    def request_done(self, request: EngineRequest, done: DoneEvent) -> None:
        self.ends[request.request_id] = done


@asynccontextmanager
async def running(
    backend: SteppedBackend,
    limits: EngineLimits | None = None,
    observer: Finished | None = None,
) -> AsyncIterator[SerialEngine]:
    engine = SerialEngine(backend, limits or EngineLimits(), observer)
    await engine.start()
    try:
        yield engine
    finally:
        backend.allow(10_000)
        await engine.close(0)


async def answer(engine: SerialEngine, request: EngineRequest) -> tuple[str, DoneEvent]:
    text, done = "", None
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, TokenEvent):
                text += event.text
            else:
                done = event
    assert done is not None
    return text, done


def ask(request_id: str = "r", prompt: str = "hello", **values: object) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt=prompt, **values)  # type: ignore[arg-type]


async def idle(engine: SerialEngine) -> None:
    def is_idle() -> bool:
        load = engine.load()
        return load.running_request_count == load.queued_request_count == 0

    await eventually(is_idle, what="an idle engine")


async def test_an_answer_ends_with_its_usage() -> None:
    async with running(SteppedBackend("hé!")) as engine:
        text, done = await answer(engine, ask(prompt="hello world"))
    assert text == "hé!"
    assert done.finish_reason is FinishReason.STOP
    assert (done.usage.input_token_count, done.usage.output_token_count) == (11, 4)
    assert (done.usage.request_bytes, done.usage.response_bytes) == (11, 4)
    assert done.model_digest == "d" * 64


async def test_prompts_are_computed_in_chunks_and_shared_chunks_once() -> None:
    backend = SteppedBackend("x")
    async with running(backend) as engine:
        await answer(engine, ask(prompt="0123456789"))
        _, again = await answer(engine, ask(prompt="01234567xy"))
        _, same = await answer(engine, ask(prompt="01234567xy"))
    assert backend.prefilled_counts[-5:] == [4, 4, 2, 2, 2]
    assert again.usage.cached_input_token_count == 8
    assert same.usage.cached_input_token_count == 8


async def test_the_model_context_bounds_prompt_and_answer() -> None:
    async with running(SteppedBackend("ab", endless=True, context=16)) as engine:
        text, done = await answer(engine, ask(prompt="0123456789"))
        assert (text, done.finish_reason) == ("ababab", FinishReason.LENGTH)
        with pytest.raises(InvalidArgument) as caught:
            await answer(engine, ask(prompt="0123456789", max_tokens=7))
    assert caught.value.field == "input.max_tokens"


async def test_text_held_back_for_a_stop_comes_out_at_the_limit() -> None:
    async with running(SteppedBackend("abc")) as engine:
        text, done = await answer(engine, ask(stop=("bcd",)))
        assert (text, done.finish_reason) == ("abc", FinishReason.STOP)
        text, done = await answer(engine, ask(stop=("bcd",), max_tokens=2))
        assert (text, done.finish_reason) == ("ab", FinishReason.LENGTH)
        text, done = await answer(engine, ask(stop=("bc",)))
        assert (text, done.usage.output_token_count) == ("a", 3)


async def test_closing_the_stream_interrupts_the_step_in_hand() -> None:
    backend, finished = SteppedBackend(endless=True), Finished()
    async with running(backend, observer=finished) as engine:
        backend.hold()
        backend.allow(2)  # two chunks of prompt, which bring the first token
        events = engine.generate(ask())
        await anext(events)
        backend.waiting.clear()
        assert await asyncio.to_thread(backend.waiting.wait, 10)
        # Nobody allows another step: only an interrupt can free the engine.
        await events.aclose()
        await idle(engine)
        assert await eventually(lambda: finished.ends.get("r"))
    assert finished.ends["r"].finish_reason is FinishReason.CANCELLED
    assert finished.ends["r"].usage.output_token_count >= 1


async def test_cancelling_the_task_interrupts_a_long_prefill() -> None:
    backend = SteppedBackend()
    async with running(backend) as engine:
        backend.hold()
        task = asyncio.create_task(answer(engine, ask(prompt="a long prompt")))
        assert await asyncio.to_thread(backend.waiting.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)
        backend.allow(100)
        text, _ = await answer(engine, ask(prompt="a long prompt"))
        assert text == "abc"


async def test_a_waiting_request_leaves_the_queue_at_once() -> None:
    backend, finished = SteppedBackend(endless=True), Finished()
    async with running(backend, observer=finished) as engine:
        backend.hold()
        first = asyncio.create_task(answer(engine, ask("first")))
        await eventually(lambda: engine.load().running_request_count == 1)
        second = asyncio.create_task(answer(engine, ask("second")))
        await eventually(lambda: engine.load().queued_request_count == 1)
        second.cancel()
        await asyncio.wait([second])
        assert engine.load().queued_request_count == 0
        assert finished.ends["second"].usage.compute_us == 0
        first.cancel()
        await asyncio.wait([first])


async def test_a_full_queue_refuses_with_a_time_to_retry_and_sheds_batch_first() -> None:
    backend = SteppedBackend()
    async with running(backend, EngineLimits(queue_capacity=1)) as engine:
        backend.hold()
        first = asyncio.create_task(answer(engine, ask("first")))
        await eventually(lambda: engine.load().running_request_count == 1)
        batch = asyncio.create_task(answer(engine, ask("batch", priority=Priority.BATCH)))
        await eventually(lambda: engine.load().queued_request_count == 1)
        with pytest.raises(ResourceExhausted) as refused:
            await answer(engine, ask("late", priority=Priority.BATCH))
        assert refused.value.retry_after_ms > 0
        person = asyncio.create_task(
            answer(engine, ask("person", priority=Priority.INTERACTIVE))
        )
        with pytest.raises(ResourceExhausted):
            await batch
        backend.allow(100)
        assert (await first)[0] == (await person)[0] == "abc"


async def test_a_failing_step_is_an_error_before_the_first_token_and_an_end_after_it() -> None:
    backend = SteppedBackend(endless=True)
    async with running(backend) as engine:
        backend.fail_next()
        with pytest.raises(Internal):
            await answer(engine, ask())
        backend.hold()
        backend.allow(2)
        seen: list[EngineEvent] = []
        async with aclosing(engine.generate(ask())) as events:
            async for event in events:
                if not seen:
                    backend.fail_next()
                    backend.allow(1_000)
                seen.append(event)
        done = seen[-1]
        assert isinstance(done, DoneEvent)
        assert done.finish_reason is FinishReason.ERROR
        assert done.usage.output_token_count >= 1
        text, done = await answer(engine, ask(max_tokens=3))
        assert (text, done.finish_reason) == ("abc", FinishReason.LENGTH)


async def test_a_compute_limit_ends_the_answer_within_it() -> None:
    ticks = iter(range(0, 10**12, 1_000_000))  # every look at the clock takes 1 ms
    backend = SteppedBackend("a", endless=True)
    engine = SerialEngine(backend, EngineLimits(), now_ns=lambda: next(ticks))
    await engine.start()
    text, done = await answer(engine, ask(prompt="abcd", compute_limit_us=6_500))
    assert done.finish_reason is FinishReason.BUDGET
    assert 0 < done.usage.compute_us <= 6_500
    assert len(text) == done.usage.output_token_count > 0
    text, done = await answer(engine, ask(prompt="abcd", compute_limit_us=1))
    assert (text, done.finish_reason) == ("", FinishReason.BUDGET)
    assert done.usage.compute_us <= 1
    await engine.close(0)


async def test_closing_lets_the_running_request_end_and_refuses_new_ones() -> None:
    backend = SteppedBackend()
    engine = SerialEngine(backend, EngineLimits())
    await engine.start()
    backend.hold()
    task = asyncio.create_task(answer(engine, ask()))
    await eventually(lambda: engine.load().running_request_count == 1)
    closing = asyncio.create_task(engine.close(30))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await answer(engine, ask("late"))
    backend.allow(100)
    assert (await task)[0] == "abc"
    await closing
    assert backend.closed


async def test_closing_without_patience_ends_what_runs_and_waits() -> None:
    backend = SteppedBackend(endless=True)
    engine = SerialEngine(backend, EngineLimits())
    await engine.start()
    backend.hold()
    first = asyncio.create_task(answer(engine, ask("first")))
    await eventually(lambda: engine.load().running_request_count == 1)
    second = asyncio.create_task(answer(engine, ask("second")))
    await eventually(lambda: engine.load().queued_request_count == 1)
    await engine.close(0)
    for task in (first, second):
        with pytest.raises(Unavailable):
            await task


async def test_load_changes_wake_those_who_watch() -> None:
    backend = SteppedBackend()
    async with running(backend) as engine:
        before = engine.load()
        assert before.decode_tokens_per_second > 0
        watcher = asyncio.create_task(engine.load_changed(before.version))
        await answer(engine, ask())
        await asyncio.wait_for(watcher, 10)
        assert engine.load().version > before.version


async def test_a_schema_the_backend_cannot_follow_is_refused() -> None:
    async with running(SteppedBackend()) as engine:
        with pytest.raises(Unimplemented):
            await answer(engine, ask(json_schema="{}"))


async def test_messages_go_through_the_template() -> None:
    async with running(SteppedBackend()) as engine:
        request = EngineRequest(request_id="r", messages=(ChatMessage("user", "hi"),))
        _, done = await answer(engine, request)
    assert done.usage.input_token_count == len("user:hi;")
    assert done.usage.request_bytes == 2
