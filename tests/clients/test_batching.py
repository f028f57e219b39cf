from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from farthing.clients.batching import MicroBatcher
from farthing.kit.errors import Internal, ResourceExhausted, Unavailable
from farthing.kit.testing import eventually


class Recorder:
    """Doubles each item; holds every call until the gate opens."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def send(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [item * 2 for item in items]


async def _fill(batcher: MicroBatcher[int, int], recorder: Recorder) -> list[asyncio.Task[int]]:
    first = asyncio.create_task(batcher.submit(0))
    await eventually(lambda: recorder.batches)
    rest = [asyncio.create_task(batcher.submit(n)) for n in range(1, 6)]
    await eventually(lambda: batcher.queue_count == 5)
    return [first, *rest]


async def test_items_that_arrive_during_a_call_leave_together_in_order() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send)
    tasks = await _fill(batcher, recorder)
    recorder.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert recorder.batches == [[0], [1, 2, 3, 4, 5]]


async def test_items_of_one_loop_turn_leave_together_and_a_batch_has_a_greatest_size() -> None:
    recorder = Recorder()
    recorder.gate.set()
    batcher = MicroBatcher(recorder.send, max_batch_count=3)
    assert await asyncio.gather(*(batcher.submit(n) for n in range(7))) == [
        n * 2 for n in range(7)
    ]
    assert [len(batch) for batch in recorder.batches] == [3, 3, 1]


async def test_each_lane_has_its_own_call_under_way() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send, lane_count=2, max_batch_count=1)
    tasks = [asyncio.create_task(batcher.submit(n)) for n in range(3)]
    await eventually(lambda: len(recorder.batches) == 2)
    assert batcher.queue_count == 1
    recorder.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4]


async def test_a_cancelled_waiter_leaves_the_queue_and_nobody_else_notices() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send)
    tasks = await _fill(batcher, recorder)
    tasks[3].cancel()
    await asyncio.wait([tasks[3]])
    recorder.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [0, 2, 4, 8, 10]
    assert recorder.batches == [[0], [1, 2, 4, 5]]


async def test_an_answer_nobody_waits_for_is_handed_back() -> None:
    recorder = Recorder()
    abandoned: list[tuple[int, int]] = []
    batcher = MicroBatcher(
        recorder.send, on_abandoned=lambda item, result: abandoned.append((item, result))
    )
    tasks = await _fill(batcher, recorder)
    tasks[0].cancel()
    recorder.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert abandoned == [(0, 0)]


async def test_an_error_reaches_every_waiter_of_its_batch_and_the_next_batch_goes_on() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send)
    tasks = await _fill(batcher, recorder)
    recorder.error = Unavailable("down", reason="DOWN")
    recorder.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    recorder.error = None
    assert await batcher.submit(21) == 42


async def test_a_full_queue_refuses_at_once() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send, max_queue_count=5)
    tasks = await _fill(batcher, recorder)
    with pytest.raises(ResourceExhausted) as caught:
        await batcher.submit(9)
    assert caught.value.reason == "BATCH_QUEUE_FULL" and caught.value.retry_after_ms > 0
    recorder.gate.set()
    await asyncio.gather(*tasks)


async def test_a_wrong_count_of_answers_is_an_error_for_all() -> None:
    async def send(items: Sequence[int]) -> list[int]:
        return []

    with pytest.raises(Internal):
        await MicroBatcher(send).submit(1)


async def test_close_fails_all_waiters_and_later_ones() -> None:
    recorder = Recorder()
    batcher = MicroBatcher(recorder.send)
    tasks = await _fill(batcher, recorder)
    await batcher.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    with pytest.raises(Unavailable):
        await batcher.submit(1)
