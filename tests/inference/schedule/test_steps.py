"""How long steps are and what goes into them, so that nobody waits long for a first token."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.simulated_engine import WEIGHTS, SimulatedEngine, Wish

from farthing.inference.core.cost_model import Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule import filling
from farthing.inference.core.schedule.budget import StepTargets
from farthing.inference.core.schedule.filling import fill_step
from farthing.inference.core.schedule.row import Row
from farthing.inference.core.schedule.scheduler import Rules
from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import Work

ROOM = Room(4, 1_000, 4_000, 512)
INTERACTIVE, STANDARD, BATCH = Priority


def _row(slot: int, priority: Priority, pending: int, drafts: int, last_step: int) -> Row:
    return Row(
        slot, "a", priority, "", 20, 50, 0, 0, [], 20 + pending, 0, slot=slot, held_count=20,
        draft_count=drafts, rank=priority, slot_turn=slot, last_step=last_step,
    )  # fmt: skip


@given(
    st.lists(
        st.builds(
            _row,
            st.just(0),
            st.sampled_from(Priority) | st.just(STANDARD),
            st.just(1) | st.integers(1, 3),
            st.just(0) | st.integers(0, 2),
            st.integers(0, 9),
        ),
        max_size=5,
    ),
    st.integers(1, 40),
    st.sampled_from(Priority),
    st.sampled_from([0, 9_000]),
)
def test_a_step_of_next_tokens_alone_is_what_weighing_everything_would_give(
    rows: list[Row], capacity: int, expected: Priority, step_us: int
) -> None:
    for slot, row in enumerate(rows):
        row.row_id = row.slot = slot
    weights = Weights(step_us, 500, 900, 1) if step_us else Weights()

    def fill() -> list[Work]:
        return fill_step(
            rows, weights, StepTargets(), capacity=capacity, step=10, expected=expected
        )

    quick = fill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "_only_generate", lambda *_: False)
        assert quick == fill()


def test_a_prompt_is_cut_where_the_step_is_of_a_round_number_of_tokens() -> None:
    targets = StepTargets(interactive_us=20_500)
    engine = SimulatedEngine(ROOM, Rules(targets=targets))
    for number in range(3):
        engine.submit(Wish([number] * 10, token_limit=60, priority=INTERACTIVE))
    engine.step()
    engine.submit(Wish([9] * 900, token_limit=1, priority=INTERACTIVE))
    for _ in range(4):
        engine.step()
        assert sum(work.count for work in engine.steps[-1].work) % 4 == 0
        assert engine.step_us[-1] <= targets.interactive_us


def _saturated(weights: Weights, targets: StepTargets) -> SimulatedEngine:
    """Sixteen rows of the batch class generate, and an interactive request has come and gone."""
    engine = SimulatedEngine(Room(16, 1_000, 16_000, 512), Rules(targets=targets), weights)
    for number in range(16):
        engine.submit(Wish([number] * 4, token_limit=900, priority=BATCH))
    for _ in range(20):
        engine.step()
    assert len(engine.steps[-1].work) == 16
    passing = engine.submit(Wish([99] * 4, token_limit=1, priority=INTERACTIVE))
    while engine.requests[passing].state != "done":
        engine.step()
    return engine


def test_where_interactive_requests_are_expected_batches_take_turns_in_short_steps() -> None:
    weights = Weights(step_us=500, prefill_us=500, decode_us=500, kv_us=0)
    targets = StepTargets(interactive_us=15_000)
    engine = _saturated(weights, targets)
    begun_us, before = engine.now_us, len(engine.steps)
    while engine.now_us - begun_us < 4_000_000:
        engine.step()
    steps = engine.steps[before + 8 :]  # first the row that gave way begins again
    assert {len(plan.work) for plan in steps} == {8}  # by fours: 4.5 ms, where 5 may be waited
    served = [sum(w.row_id == n for plan in steps for w in plan.work) for n in range(16)]
    assert max(served) - min(served) <= 1
    while engine.now_us - begun_us < 5_100_000:
        engine.step()
    assert len(engine.steps[-1].work) == 16  # nobody came


def test_steps_are_not_cut_where_each_costs_much_by_itself() -> None:
    weights = Weights(step_us=5_000, prefill_us=500, decode_us=500, kv_us=0)
    engine = _saturated(weights, StepTargets(interactive_us=20_000))
    for _ in range(20):
        engine.step()
    assert len(engine.steps[-1].work) == 16


def test_a_long_batch_prompt_goes_in_by_short_steps_where_interactive_requests_are_expected() -> (
    None
):
    weights = Weights(step_us=500, prefill_us=200, decode_us=500, kv_us=0)
    engine = SimulatedEngine(ROOM, Rules(targets=StepTargets(interactive_us=30_000)), weights)
    engine.submit(Wish([9] * 4, token_limit=1, priority=INTERACTIVE))
    engine.run()
    long = engine.submit(Wish([1] * 900, token_limit=1, priority=BATCH))
    before = len(engine.step_us)
    engine.run()
    assert engine.requests[long].state == "done"
    assert max(engine.step_us[before:]) <= 10_000


def test_a_prompt_that_ends_goes_before_the_next_tokens_of_its_class() -> None:
    engine = SimulatedEngine(ROOM)
    first = engine.submit(Wish([1] * 10, token_limit=200))
    for _ in range(3):
        engine.step()
    late = engine.submit(Wish([2] * 32, token_limit=5))
    engine.step()
    assert [(work.row_id, work.count) for work in engine.steps[-1].work] == [(late, 32)]
    engine.step()
    assert len(engine.steps[-1].work) == 2
    for number in range(40):  # prompts without end: the others get on beside them
        engine.submit(Wish([number] * 32, token_limit=1))
        engine.step()
    engine.run()
    times = engine.requests[first].token_times_us
    prompt_us = WEIGHTS.step_us + 32 * WEIGHTS.prefill_us
    bound_us = 3 * prompt_us + 10 * WEIGHTS.decode_us  # two before its step and one in it
    assert max(b - a for a, b in itertools.pairwise(times)) <= bound_us
