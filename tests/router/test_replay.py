"""Repeats of a request id: same answer, bounded memory, no second run."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import Aborted, AlreadyExists
from farthing.kit.testing import FakeClock
from farthing.router.exchange import Event, Send
from farthing.router.replay import ReplayLog


async def answer(words: list[str], runs: list[str], send: Send) -> None:
    runs.append("run")
    await send(Event(decision=router_pb2.Decision(decision_id="dec_1")))
    for word in words:
        token = inference_pb2.TokenLogprob(token=word, logprob=-1.0)
        await send(Event(delta=inference_pb2.Delta(text=word, token_count=1, logprobs=[token])))
    await send(Event(result=router_pb2.Result(total_nano_usd=17)))


async def play(
    log: ReplayLog, request_id: str, runs: list[str], *, content: bytes = b""
) -> list[Event]:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    await log.play((b"key", request_id), content, partial(answer, ["one ", "two"], runs), send)
    return sent


async def test_a_repeat_gets_the_same_text_tokens_and_bill_without_a_second_run() -> None:
    log, runs = ReplayLog(FakeClock()), list[str]()
    first = await play(log, "a", runs)
    again = await play(log, "a", runs)
    assert runs == ["run"]
    assert [event.delta.text for event in first[1:-1]] == ["one ", "two"]
    (delta,) = [event.delta for event in again if event.HasField("delta")]
    assert (delta.text, delta.token_count) == ("one two", 2)
    assert [token.token for token in delta.logprobs] == ["one ", "two"]
    assert again[0] == first[0]
    assert again[-1] == first[-1]


async def test_the_same_id_for_another_request_is_refused() -> None:
    log = ReplayLog(FakeClock())
    await play(log, "a", [], content=b"x")
    with pytest.raises(AlreadyExists):
        await play(log, "a", [], content=b"y")


async def test_answers_are_forgotten_after_ten_minutes() -> None:
    clock, runs = FakeClock(), list[str]()
    log = ReplayLog(clock)
    await play(log, "a", runs)
    clock.advance(599)
    await play(log, "a", runs)
    clock.advance(1)
    await play(log, "a", runs)
    assert runs == ["run", "run"]


async def test_memory_is_bounded_although_an_old_call_still_runs() -> None:
    log, runs, reading = ReplayLog(FakeClock(), most_bytes=5_000), list[str](), asyncio.Event()

    async def read_slowly(event: Event) -> None:
        reading.set()
        await asyncio.Event().wait()

    slow = asyncio.ensure_future(
        log.play((b"key", "slow"), b"", partial(answer, ["x"], []), read_slowly)
    )
    await reading.wait()
    for number in range(50):
        await play(log, str(number), runs)
    assert log._size <= 5_000
    await play(log, "49", runs)
    assert len(runs) == 50
    await play(log, "0", runs)
    assert len(runs) == 51
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_call_that_failed_is_not_kept_and_tells_whoever_waits_for_it() -> None:
    log, runs, reading = ReplayLog(FakeClock()), list[str](), asyncio.Event()

    async def read_slowly(event: Event) -> None:
        reading.set()
        await asyncio.Event().wait()

    first = asyncio.ensure_future(
        log.play((b"key", "a"), b"", partial(answer, ["x"], []), read_slowly)
    )
    await reading.wait()
    second = asyncio.ensure_future(play(log, "a", runs))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Aborted):
        await second
    await play(log, "a", runs)
    assert runs == ["run"]
