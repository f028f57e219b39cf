"""Which tokens of an answer are told together, and that none is held back where the answer stops."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.toy_backend import ToyBackend, toy_answer
from tests.support.toy_loop import ToyLoop

from farthing.inference.batch_backend import SlotLayout
from farthing.inference.core.priority import Priority
from farthing.inference.core.request import TokenEvent
from farthing.kit.errors import Internal


def told_counts(lab: ToyLoop, job_id: int) -> list[int]:
    """How many tokens each message about the request had."""
    return [e.token_count for e in lab.heard[job_id].events if isinstance(e, TokenEvent)]


@pytest.mark.parametrize(
    "wish", [{"priority": Priority.BATCH}, {"coalesce_us": 100_000}], ids=["batch", "asked for"]
)
def test_tokens_may_be_told_together_after_the_first(wish: dict[str, Any]) -> None:
    lab = ToyLoop(us_per_reading=5_000)  # two readings a step
    prompt = next(f"hello {n}" for n in range(99) if len(toy_answer(f"hello {n}", 60)) == 60)
    first = lab.submit(prompt, 60, **wish)
    for _ in range(3):
        lab.loop.step()
    second = lab.submit(prompt + "!", 40, **wish)
    lab.run()
    counts = told_counts(lab, first)
    assert lab.heard[first].text == toy_answer(prompt, 60)
    assert counts[0] == 1 and sum(counts) == 60
    assert all(9 <= count <= 11 for count in counts[2:-1])  # a tenth of a second's steps
    assert told_counts(lab, second)[0] == 1
    assert lab.heard[first].done.usage.output_token_count == 60


def test_a_request_that_gives_way_is_told_what_it_has() -> None:
    lab = ToyLoop(ToyBackend(SlotLayout(1, 300, 300, 64, 8)), us_per_reading=1_000)
    slow = lab.submit("hello", 60, priority=Priority.BATCH)
    for _ in range(5):
        lab.loop.step()
    assert told_counts(lab, slow) == [1]
    lab.submit("hi", 3, priority=Priority.INTERACTIVE)
    lab.loop.step()
    assert sum(told_counts(lab, slow)) == 5
    lab.run()
    assert lab.heard[slow].text == toy_answer("hello", 60)


@pytest.mark.parametrize("ending", ["abort", "cancel"])
def test_what_was_not_told_yet_goes_before_an_early_end(ending: str) -> None:
    lab = ToyLoop(us_per_reading=1_000)
    job_id = lab.submit("hello", 60, priority=Priority.BATCH)
    for _ in range(5):
        lab.loop.step()
    if ending == "abort":
        lab.loop.abort(Internal("gone", reason="GONE"))
    else:
        lab.loop.cancel(job_id)
        lab.loop.step()
    assert sum(told_counts(lab, job_id)) == 5
    assert lab.heard[job_id].done.usage.output_token_count == 5
