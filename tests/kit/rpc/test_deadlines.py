"""Blocks end at their deadlines as asyncio.timeout ends them, whatever order they begin and end in."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.kit.rpc.deadlines import Deadlines


async def test_a_block_that_waits_too_long_is_left_with_a_timeout() -> None:
    deadlines, began = Deadlines(), time.monotonic()
    with pytest.raises(TimeoutError):
        with deadlines.within(0.02):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.02
    await asyncio.sleep(0)  # the task is not being cancelled any more: it can wait again


async def test_a_block_that_ends_in_time_leaves_nothing_behind() -> None:
    deadlines = Deadlines()
    with deadlines.within(0.01):
        await asyncio.sleep(0)
    with deadlines.within(0.05), pytest.raises(TimeoutError):
        # Whatever comes for the first block's deadline finds only the second.
        with deadlines.within(0.03):
            await asyncio.Event().wait()


async def test_a_sooner_deadline_does_not_wait_for_a_later_one_that_was_set_before() -> None:
    deadlines = Deadlines()

    async def wait_within(seconds: float) -> None:
        with deadlines.within(seconds):
            await asyncio.Event().wait()

    later, sooner = (asyncio.create_task(wait_within(seconds)) for seconds in (60, 0.02))
    done, left = await asyncio.wait(
        {later, sooner}, timeout=20, return_when=asyncio.FIRST_COMPLETED
    )
    later.cancel()
    assert (done, left) == ({sooner}, {later})
    assert isinstance(sooner.exception(), TimeoutError)


async def test_nothing_is_begun_without_time() -> None:
    begun = False
    with pytest.raises(TimeoutError):
        with Deadlines().within(0.0):
            begun = True
    assert not begun


async def test_no_limit_is_no_limit() -> None:
    task = asyncio.current_task()
    with Deadlines().within(None):
        await asyncio.sleep(0)
    assert task is not None and task.cancelling() == 0


async def test_a_cancel_from_elsewhere_stays_a_cancel_even_when_time_is_up_too() -> None:
    deadlines, waiting = Deadlines(), asyncio.Event()

    async def work() -> None:
        with deadlines.within(0.02):
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                # The deadline passes while the task cleans up after the cancel.
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_error_of_the_block_goes_on_as_it_is() -> None:
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(KeyError):
        with Deadlines().within(0.01):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise KeyError from None
    assert task.cancelling() == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=12))
async def test_each_of_many_blocks_ends_by_its_own_deadline(
    blocks: list[tuple[int, bool]],
) -> None:
    """Each has so many milliseconds, and either ends at once or never."""
    deadlines = Deadlines()

    async def work(has_ms: int, is_endless: bool) -> float | None:
        """Seconds until the timeout."""
        began = time.monotonic()
        try:
            with deadlines.within(has_ms / 1000):
                if is_endless:
                    await asyncio.Event().wait()
        except TimeoutError:
            return time.monotonic() - began
        return None

    ended = await asyncio.gather(*(work(*block) for block in blocks))
    for (has_ms, is_endless), after_s in zip(blocks, ended, strict=True):
        assert (after_s is not None) == is_endless
        assert after_s is None or after_s >= has_ms / 1000
