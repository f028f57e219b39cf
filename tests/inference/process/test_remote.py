"""The service and its engine's process: real processes, real signals, a toy for a library."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing

import pytest
from tests.support.toy_backend import END, toy_answer

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.process.child import Child, start_child
from farthing.inference.process.remote import Patience, RemoteEngine
from farthing.kit.errors import InvalidArgument, NotFound, ResourceExhausted, Unavailable
from farthing.kit.testing import eventually

Start = Callable[..., "asyncio.Future[Lab]"]
READY, STARTING = pb.ENGINE_STATE_READY, pb.ENGINE_STATE_STARTING


class Told:
    """Implements Observer."""

    def __init__(self) -> None:
        self.ends: list[pb.Completion] = []

    def request_done(self, completion: pb.Completion) -> None:
        self.ends.append(completion)


class Lab:
    """An engine and its processes, the present one last."""

    def __init__(self, name: str, step_s: float, patience: Patience) -> None:
        self.children: list[Child] = []
        self.told = Told()

        def spawn() -> Child:
            child = start_child("tests.support.toy_backend", [name, str(step_s)])
            self.children.append(child)
            return child

        self.engine = RemoteEngine(spawn, patience, self.told)

    @property
    def pid(self) -> int:
        return self.children[-1].process.pid

    def state(self) -> int:
        return self.engine.load()[1].state

    async def ask(self, prompt: str, max_tokens: int = 20, **values: object) -> str:
        text = ""
        async with aclosing(self.engine.generate(ask(prompt, max_tokens, **values))) as events:
            async for event in events:
                text += event.delta.text
        return text

    async def ready_again(self) -> None:
        await eventually(lambda: self.state() == READY, timeout_s=30, what="another engine")


def ask(prompt: str, max_tokens: int = 20, **values: object) -> pb.GenerateRequest:
    """Of more than 100 tokens: the answer does not end by itself."""
    endless = pb.SamplingParams(logit_bias={END: -100.0} if max_tokens > 100 else {})
    given = pb.GenerationInput(prompt=prompt, max_tokens=max_tokens, sampling=endless)
    return pb.GenerateRequest(model="toy", input=given, **values)  # type: ignore[arg-type]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(
            name: str = "toy", *, step_s: float = 0.0, patience: Patience | None = None
        ) -> Lab:
            lab = Lab(name, step_s, patience or Patience(start_s=60))
            stack.push_async_callback(lab.engine.close, 0)
            await lab.engine.start()
            return lab

        yield begin  # type: ignore[misc]


async def test_requests_are_answered_side_by_side(start: Start) -> None:
    lab = await start()
    assert lab.engine.info.name == "toy" and lab.engine.ready.facts["device"] == "toy"
    prompts = [f"question {number}" for number in range(8)]
    answers = await asyncio.gather(*map(lab.ask, prompts))
    assert answers == [toy_answer(prompt, 20) for prompt in prompts]
    assert len(lab.told.ends) == 8
    await eventually(
        lambda: sum(end.usage.compute_us for end in lab.told.ends) == lab.engine.report.busy_us,
        what="the engine's last report",
    )


async def test_an_answer_streams_and_ends_with_what_it_used(start: Start) -> None:
    lab = await start(step_s=0.01)
    events = [event async for event in lab.engine.generate(ask("hello", 6))]
    assert len(events) > 3
    end = events[-1].completion
    assert end.finish_reason == common_pb2.FINISH_REASON_LENGTH
    assert end.usage.output_token_count == 6 and end.usage.compute_us >= 6 * 10_000


async def test_an_answer_that_was_complete_stays_so_when_the_engine_is_lost(
    start: Start,
) -> None:
    lab = await start()
    async with aclosing(lab.engine.generate(ask("hello", 6))) as events:
        first = await anext(events)
        await eventually(lambda: bool(lab.told.ends), what="the whole answer")
        os.kill(lab.pid, signal.SIGKILL)
        await eventually(lambda: lab.engine.restart_count == 1, what="the loss")
        rest = [event async for event in events]
    text = first.delta.text + "".join(event.delta.text for event in rest)
    assert text == toy_answer("hello", 6)
    assert rest[-1].completion.finish_reason == common_pb2.FINISH_REASON_LENGTH


async def test_refusals_come_back_as_they_were_raised(start: Start) -> None:
    lab = await start()
    with pytest.raises(InvalidArgument) as too_long:
        await lab.ask("x" * 1_000)
    assert too_long.value.reason == "CONTEXT_EXCEEDED" and too_long.value.field == "input"
    with pytest.raises(NotFound) as unknown:
        await lab.ask("x", adapter="whisper")
    assert unknown.value.metadata["adapter"] == "whisper"


async def test_a_full_engine_says_when_to_try_again(start: Start) -> None:
    lab = await start(step_s=0.05)
    results = await asyncio.gather(
        *(lab.ask(f"question {number}", 3) for number in range(20)), return_exceptions=True
    )
    refused = [one for one in results if isinstance(one, ResourceExhausted)]
    assert refused and all(one.retry_after_ms > 0 for one in refused)
    assert len([one for one in results if isinstance(one, str)]) >= 8


async def test_a_reader_that_goes_away_frees_the_engine(start: Start) -> None:
    lab = await start(step_s=0.02)
    async with aclosing(lab.engine.generate(ask("hello", 400))) as events:
        await anext(events)
    await eventually(lambda: bool(lab.told.ends), what="the cancelled request's end")
    assert lab.told.ends[0].finish_reason == common_pb2.FINISH_REASON_CANCELLED
    assert lab.told.ends[0].usage.output_token_count < 100
    await eventually(lambda: lab.engine.load()[1].running_request_count == 0)


async def test_load_is_told_while_requests_run_and_after(start: Start) -> None:
    lab = await start(step_s=0.02)
    running = [asyncio.ensure_future(lab.ask(f"q{n}", 60)) for n in range(6)]
    await eventually(lambda: lab.engine.load()[1].running_request_count == 4)
    load = lab.engine.load()[1]
    assert load.queued_request_count <= 2 and load.capacity_request_count == 4
    assert load.kv_token_count > 0 and load.kv_token_capacity == 2_000
    (speed,) = load.speeds
    assert speed.token_interval_us >= 20_000 and speed.decode_tokens_per_second <= 50
    await asyncio.gather(*running)
    await eventually(lambda: lab.engine.load()[1].running_request_count == 0)


async def test_embeddings_are_made_beside_answers(start: Start) -> None:
    lab = await start()
    answer, vectors = await asyncio.gather(lab.ask("hello"), lab.engine.embed(["ab", "abc"]))
    assert answer == toy_answer("hello", 20)
    assert [list(one.values) for one in vectors.embeddings] == [[0.0, 1.0], [1.0, 0.0]]
    assert vectors.usage.input_token_count == 5 and vectors.usage.compute_us > 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_killed_engine_is_replaced_and_says_so_to_whoever_waits(
    start: Start, how: signal.Signals
) -> None:
    lab = await start(step_s=0.02)
    waiting = [asyncio.ensure_future(lab.ask(f"question {n}", 300)) for n in range(6)]
    await eventually(lambda: lab.engine.load()[1].running_request_count == 4)
    os.kill(lab.pid, how)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in results)
    assert {one.reason for one in results if isinstance(one, Unavailable)} == {
        "ENGINE_RESTARTING"
    }
    await lab.ready_again()
    assert await lab.ask("hello") == toy_answer("hello", 20)
    assert lab.engine.restart_count == 1


async def test_a_prompt_that_crashes_the_library_does_not_crash_the_service(
    start: Start,
) -> None:
    lab = await start()
    with pytest.raises(Unavailable):
        await lab.ask("PLEASE CRASH")
    await lab.ready_again()
    assert await lab.ask("hello") == toy_answer("hello", 20)


async def test_requests_during_a_restart_are_refused_at_once(start: Start) -> None:
    lab = await start()
    os.kill(lab.pid, signal.SIGKILL)
    await eventually(lambda: lab.state() == STARTING)
    with pytest.raises(Unavailable) as refused:
        await lab.ask("hello")
    assert refused.value.retry_after_ms > 0
    await lab.ready_again()


async def test_a_stopped_engine_is_taken_for_hung_and_replaced(start: Start) -> None:
    lab = await start(patience=Patience(start_s=60, silence_s=1.5))
    waiting = asyncio.ensure_future(lab.ask("hello", 400))
    os.kill(lab.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        await waiting
    await lab.ready_again()
    assert await lab.ask("hello") == toy_answer("hello", 20)


async def test_a_step_without_end_is_ended(start: Start) -> None:
    lab = await start(patience=Patience(start_s=60, step_s=1.0))
    with pytest.raises(Unavailable):
        await lab.ask("PLEASE HANG")
    await lab.ready_again()
    assert await lab.ask("hello") == toy_answer("hello", 20)


async def test_an_engine_that_cannot_start_says_why(start: Start) -> None:
    with pytest.raises(Unavailable) as crashed:
        await start("broken")
    assert crashed.value.reason == "ENGINE_CRASHED" and "exit status 3" in crashed.value.message


async def test_an_engine_that_does_not_get_ready_is_given_up(start: Start) -> None:
    with pytest.raises(Unavailable) as slow:
        await start(step_s=2.0, patience=Patience(start_s=0.5))
    assert slow.value.reason == "ENGINE_START_TIMEOUT"


async def test_closing_lets_requests_end_in_time_and_leaves_no_process(start: Start) -> None:
    lab = await start(step_s=0.02)
    waiting = asyncio.ensure_future(lab.ask("hello", 10))
    await eventually(lambda: lab.engine.load()[1].running_request_count == 1)
    await lab.engine.close(20)
    assert await waiting == toy_answer("hello", 10)
    assert lab.children[-1].process.poll() == 0
    with pytest.raises(Unavailable) as closing:
        await lab.ask("hello")
    assert closing.value.reason == "CLOSING"


async def test_closing_without_time_ends_requests(start: Start) -> None:
    lab = await start(step_s=0.02)
    waiting = asyncio.ensure_future(lab.ask("hello", 400))
    await eventually(lambda: lab.engine.load()[1].running_request_count == 1)
    await lab.engine.close(0)
    with pytest.raises(Unavailable):
        await waiting
    assert lab.children[-1].process.poll() is not None


async def test_an_engine_ends_when_its_service_is_killed() -> None:
    """The child holds nothing but its end of the connection: when that breaks, it goes."""
    child = start_child("tests.support.toy_backend", ["toy", "0"])
    child.connection.close()
    code = await asyncio.to_thread(child.process.wait, 60)
    assert code is not None
