"""Who is served when: classes, tenants, long prompts beside short answers, and what waiting does."""

from __future__ import annotations

import itertools
import statistics

import pytest
from tests.support.simulated_engine import WEIGHTS, SimulatedEngine, Wish

from farthing.inference.core.cost_model import Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.budget import StepTargets
from farthing.inference.core.schedule.scheduler import LineFull, Rules, Scheduler, TooLong
from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import Arrival

ROOM = Room(4, 1_000, 4_000, 512)
INTERACTIVE, STANDARD, BATCH = Priority


def line_up(engine: SimulatedEngine, row_id: int, wish: Wish, *, count: int) -> None:
    """Step until a row is done, 200 times at most, with so many rows running and waiting in all."""
    for _ in range(200):
        if engine.requests[row_id].state == "done":
            break
        while (
            sum(one.state in ("waiting", "running") for one in engine.requests.values()) < count
        ):
            engine.submit(wish)
        engine.step()


def test_rows_that_generate_go_on_beside_a_long_prompt_and_wait_no_longer_than_their_target() -> (
    None
):
    targets = StepTargets(interactive_us=20_000)
    engine = SimulatedEngine(ROOM, Rules(targets=targets))
    talking = engine.submit(Wish([1] * 10, token_limit=60, priority=INTERACTIVE))
    engine.step()
    engine.submit(Wish([2] * 900, token_limit=1, priority=BATCH))
    engine.run()
    times = engine.requests[talking].token_times_us
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= targets.interactive_us
    assert len(engine.steps) > 5  # the prompt went in in pieces


def test_a_prompt_alone_is_computed_in_steps_as_large_as_they_may_be() -> None:
    engine = SimulatedEngine(ROOM)
    engine.submit(Wish([1] * 900, token_limit=1))
    engine.run()
    assert [work.count for plan in engine.steps for work in plan.work] == [512, 388]


def test_a_prompt_gets_on_even_when_generating_takes_all_the_time() -> None:
    rules = Rules(targets=StepTargets(standard_us=1))
    engine = SimulatedEngine(ROOM, rules)
    engine.submit(Wish([1], token_limit=80))
    engine.step()
    late = engine.submit(Wish([2] * 200, token_limit=1))
    engine.run()
    assert engine.requests[late].state == "done"


def test_a_higher_class_takes_the_slot_of_a_lower_one_which_later_goes_on() -> None:
    engine = SimulatedEngine(Room(2, 200, 400, 64))
    low = [engine.submit(Wish([n] * 50, token_limit=50, priority=BATCH)) for n in (1, 2)]
    for _ in range(10):
        engine.step()
    high = engine.submit(Wish([3] * 10, token_limit=5, priority=INTERACTIVE))
    engine.step()
    assert engine.requests[high].state == "running"
    assert engine.requests[low[1]].pause_count == 1  # the one that got its slot last
    assert engine.slots.saved.keys() == {low[1]}
    engine.run()
    assert all(one.state == "done" for one in engine.requests.values())
    # Nothing was computed twice: what was paused came back from memory.
    assert engine.slots.computed_count == 50 + 49 + 50 + 49 + 10 + 4


def test_a_paused_row_that_is_cancelled_leaves_nothing_behind() -> None:
    engine = SimulatedEngine(Room(1, 200, 200, 64))
    low = engine.submit(Wish([1] * 50, token_limit=50, priority=BATCH))
    for _ in range(10):
        engine.step()
    engine.submit(Wish([3] * 60, token_limit=5, priority=INTERACTIVE))
    engine.step()
    assert engine.scheduler.occupancy(engine.now_us).saved_token_count == 59
    engine.cancel(low)
    assert engine.scheduler.occupancy(engine.now_us).saved_token_count == 0
    engine.run()


def test_without_room_to_save_a_paused_row_is_computed_again() -> None:
    engine = SimulatedEngine(Room(1, 200, 200, 64), Rules(save_token_capacity=0))
    low = engine.submit(Wish([1] * 50, token_limit=50, priority=BATCH))
    for _ in range(10):
        engine.step()
    engine.submit(Wish([3] * 60, token_limit=5, priority=INTERACTIVE))
    engine.run()
    assert engine.requests[low].state == "done"
    assert engine.slots.computed_count > 50 + 49 + 60 + 4


def test_equal_classes_do_not_take_slots_from_each_other() -> None:
    engine = SimulatedEngine(Room(1, 200, 200, 64))
    first = engine.submit(Wish([1] * 5, token_limit=20))
    engine.step()
    second = engine.submit(Wish([2] * 5, token_limit=2))
    engine.run()
    assert engine.requests[first].pause_count == 0
    assert engine.requests[second].first_token_us > engine.requests[first].end_us


def test_waiting_long_enough_lifts_a_low_class_over_a_stream_of_higher_ones() -> None:
    engine = SimulatedEngine(Room(1, 200, 200, 64), Rules(aging_us=100_000))
    low = engine.submit(Wish([1] * 5, token_limit=3, priority=BATCH))
    line_up(engine, low, Wish([2] * 5, token_limit=3, priority=INTERACTIVE), count=4)
    assert engine.requests[low].state == "done"
    assert engine.requests[low].first_token_us >= 2 * 100_000


def test_lower_classes_give_way_in_a_step_that_would_be_too_long_for_the_best_one() -> None:
    targets = StepTargets(
        interactive_us=4_000
    )  # room for five generated tokens beside the step itself
    engine = SimulatedEngine(Room(16, 100, 1_600, 64), Rules(targets=targets))
    for number in range(12):
        engine.submit(Wish([number % 5] * 3, token_limit=60, priority=BATCH))
    for _ in range(5):
        engine.step()
    talking = engine.submit(Wish([1] * 3, token_limit=30, priority=INTERACTIVE))
    engine.step()
    before = len(engine.step_us)
    for _ in range(25):
        engine.step()
    assert statistics.median(engine.step_us[before:]) <= targets.interactive_us
    engine.run()
    assert engine.requests[talking].state == "done"
    assert all(one.state == "done" for one in engine.requests.values())


def test_a_tenant_with_many_requests_does_not_hold_up_one_with_few() -> None:
    engine = SimulatedEngine(Room(2, 100, 200, 64))
    crowd = [engine.submit(Wish([1] * 20, token_limit=10, tenant="many")) for _ in range(30)]
    engine.step()
    few = [engine.submit(Wish([2] * 20, token_limit=10, tenant="few")) for _ in range(3)]
    engine.run()
    ends = sorted(engine.requests[row_id].end_us for row_id in crowd)
    assert max(engine.requests[row_id].end_us for row_id in few) < ends[len(ends) // 2]


def test_tenants_that_ask_without_end_are_served_alike_however_long_their_requests() -> None:
    engine = SimulatedEngine(Room(2, 200, 400, 64))
    sizes = {"long": (60, 30), "short": (10, 5)}
    for _ in range(900):
        for tenant, (prompt, limit) in sizes.items():
            open_ones = [
                one
                for one in engine.requests.values()
                if one.wish.tenant == tenant and one.state in ("waiting", "running")
            ]
            for _ in range(4 - len(open_ones)):
                number = len(engine.requests)  # no two begin alike, so nothing is reused
                engine.submit(Wish([number] * prompt, token_limit=limit, tenant=tenant))
        engine.step()
    served = dict.fromkeys(sizes, 0)
    for one in engine.requests.values():
        if one.state in ("running", "done"):
            served[one.wish.tenant] += len(one.wish.prompt) + 2 * len(one.answer)
    assert served["long"] == pytest.approx(served["short"], rel=0.1)


def test_being_away_earns_no_right_to_shut_others_out() -> None:
    engine = SimulatedEngine(Room(1, 100, 100, 64))
    for _ in range(20):
        engine.submit(Wish([1] * 5, token_limit=10, tenant="steady"))
        engine.run()
    back = [engine.submit(Wish([2] * 5, token_limit=10, tenant="back")) for _ in range(10)]
    steady = [engine.submit(Wish([1] * 5, token_limit=10, tenant="steady")) for _ in range(10)]
    engine.run()
    halfway = sorted(engine.requests[row_id].end_us for row_id in back + steady)[9]
    done = sum(engine.requests[row_id].end_us <= halfway for row_id in steady)
    assert 3 <= done <= 7


def test_a_full_line_refuses_equals_and_sends_away_the_last_of_a_lower_class() -> None:
    engine = SimulatedEngine(Room(1, 100, 100, 64), Rules(queue_capacity=2))
    engine.submit(Wish([1] * 5, token_limit=50, priority=INTERACTIVE))
    engine.step()
    engine.submit(Wish([1] * 5))
    last = engine.submit(Wish([1] * 5, priority=BATCH))
    with pytest.raises(LineFull):
        engine.submit(Wish([1] * 5, priority=BATCH))
    del engine.requests[3]
    engine.submit(Wish([1] * 5, priority=INTERACTIVE))
    assert engine.requests[last].state == "displaced"


def test_an_old_full_line_of_a_low_class_gives_way_to_a_higher_one() -> None:
    rules = Rules(queue_capacity=2, aging_us=1)
    engine = SimulatedEngine(Room(1, 100, 100, 64), rules)
    engine.submit(Wish([1] * 5, token_limit=50, priority=INTERACTIVE))
    engine.step()
    waiting = [engine.submit(Wish([1] * 5, priority=BATCH)) for _ in range(2)]
    for _ in range(5):
        engine.step()
    engine.submit(Wish([1] * 5, priority=INTERACTIVE))
    assert [engine.requests[one].state for one in waiting] == ["waiting", "displaced"]


def test_who_has_not_begun_by_its_deadline_leaves_the_line() -> None:
    engine = SimulatedEngine(Room(1, 100, 100, 64))
    engine.submit(Wish([1] * 5, token_limit=50))
    engine.step()
    late = engine.submit(Wish([1] * 5, deadline_us=engine.now_us + 10_000))
    engine.run()
    assert engine.requests[late].state == "expired"
    begun = engine.submit(Wish([1] * 5, token_limit=50, deadline_us=engine.now_us + 10_000))
    engine.run()
    assert engine.requests[begun].state == "done"


def test_what_never_fits_is_refused_at_once() -> None:
    engine = SimulatedEngine(Room(2, 100, 150, 64))
    with pytest.raises(TooLong):
        engine.submit(Wish([1] * 90, token_limit=11))


def test_a_shared_memory_is_never_promised_twice() -> None:
    engine = SimulatedEngine(Room(4, 100, 150, 64))
    for _ in range(8):
        engine.submit(Wish([1] * 20, token_limit=40))
    while engine.step():
        reserved = sum(
            len(one.wish.prompt) + one.wish.token_limit
            for one in engine.requests.values()
            if one.state == "running"
        )
        assert reserved <= 150
    assert all(one.state == "done" for one in engine.requests.values())


def test_adapters_take_turns_and_never_meet_in_a_step() -> None:
    engine = SimulatedEngine(ROOM)
    for adapter in ("", "x", "y"):
        engine.submit(Wish([1] * 10, token_limit=20, adapter=adapter))
    engine.run()
    turns = [plan.adapter for plan in engine.steps]
    longest = max(
        len(run) for run in "".join({"": ".", "x": "x", "y": "y"}[t] for t in turns).split("x")
    )
    assert {*turns} == {"", "x", "y"} and longest <= 6


def test_unknown_speeds_hold_nobody_back() -> None:
    engine = SimulatedEngine(ROOM, weights=Weights())
    engine.submit(Wish([1] * 10, token_limit=3))
    engine.step()
    engine.submit(Wish([2] * 400, token_limit=1))
    engine.step()
    assert sum(work.count for work in engine.steps[-1].work) == 401
    assert WEIGHTS.predict_us.__name__ == "predict_us"


def test_an_old_line_of_a_low_class_does_not_take_all_slots_from_a_higher_one() -> None:
    engine = SimulatedEngine(Room(4, 200, 800, 64), Rules(aging_us=1_000))
    for number in range(12):
        engine.submit(Wish([number % 5] * 5, token_limit=100, priority=BATCH))
    for _ in range(150):  # the first four have ended, and whoever runs now has waited for long
        engine.step()
    talking = engine.submit(Wish([1] * 5, token_limit=5, priority=INTERACTIVE))
    engine.step()
    assert engine.requests[talking].first_token_us
    engine.run()
    assert all(one.state == "done" for one in engine.requests.values())


def test_a_prompt_of_the_best_class_goes_before_rows_that_generate_in_lower_ones() -> None:
    targets = StepTargets(interactive_us=5_000)
    engine = SimulatedEngine(Room(16, 100, 1_600, 64), Rules(targets=targets))
    for number in range(12):
        engine.submit(Wish([number % 5] * 3, token_limit=60, priority=BATCH))
    for _ in range(5):
        engine.step()
    talking = engine.submit(Wish([1] * 30, token_limit=3, priority=INTERACTIVE))
    engine.step()
    [work] = engine.steps[-1].work
    assert (work.row_id, work.count) == (talking, 30)
    engine.run()
    assert all(one.state == "done" for one in engine.requests.values())


@pytest.mark.parametrize("talks", [False, True])
def test_a_step_that_brings_a_better_class_its_first_token_waits_for_no_worse_row(
    talks: bool,
) -> None:
    engine = SimulatedEngine(ROOM)
    low = [engine.submit(Wish([n] * 5, token_limit=90, priority=BATCH)) for n in (1, 2)]
    if talks:
        engine.submit(Wish([9] * 5, token_limit=90, priority=INTERACTIVE))
    for _ in range(5):
        engine.step()
    newcomer = engine.submit(Wish([3] * 30, token_limit=5, priority=INTERACTIVE))
    engine.step()
    assert len(engine.requests[newcomer].token_times_us) == 1
    assert not {work.row_id for work in engine.steps[-1].work} & set(low)
    engine.step()
    assert {work.row_id for work in engine.steps[-1].work} >= set(low)
    engine.run()


def test_worse_rows_get_on_beside_first_tokens_without_end() -> None:
    engine = SimulatedEngine(Room(2, 200, 400, 64))
    low = engine.submit(Wish([1] * 5, token_limit=6, priority=BATCH))
    for _ in range(2):
        engine.step()
    before = len(engine.steps)
    line_up(engine, low, Wish([2] * 30, token_limit=1, priority=INTERACTIVE), count=2)
    assert engine.requests[low].state == "done"
    assert len(engine.steps) - before > 3 * 16  # it was left out meanwhile


def test_prompts_of_the_batch_class_begin_in_company_where_that_is_cheaper() -> None:
    def begin(groups: bool, classes: list[Priority], steps: int) -> list[int]:
        """How many prompts each step begins, beside a row that generates."""
        engine = SimulatedEngine(Room(16, 200, 3_200, 64, groups))
        engine.submit(Wish([9] * 5, token_limit=190, priority=BATCH))
        engine.step()
        for number, priority in enumerate(classes):
            engine.submit(Wish([number] * 5, token_limit=3, priority=priority))
            engine.step()
        for _ in range(steps):
            engine.step()
        return [n for plan in engine.steps[1:] if (n := sum(w.count == 5 for w in plan.work))]

    assert begin(False, [BATCH] * 4, 0) == [1, 1, 1, 1]
    assert begin(True, [BATCH] * 4, 0) == [4]
    assert begin(True, [BATCH] * 3, 20) == []  # their time has not come
    assert begin(True, [BATCH] * 3, 120) == [3]
    assert begin(True, [BATCH, BATCH, STANDARD], 0) == [1]
    assert begin(True, [STANDARD], 0) == [1]


def test_where_prompts_go_beside_rows_that_generate_none_waits_for_company() -> None:
    engine = SimulatedEngine(Room(16, 200, 3_200, 64, groups_prompts=True, mixes_prompts=True))
    engine.submit(Wish([9] * 5, token_limit=190, priority=BATCH))
    engine.step()
    engine.submit(Wish([1] * 5, token_limit=3, priority=BATCH))
    engine.step()
    assert sorted(work.count for work in engine.steps[-1].work) == [1, 5]


def test_an_idle_engine_waits_for_company_a_small_part_of_what_prompts_take() -> None:
    def patience_us(groups: bool, prompt_counts: list[int], prefill_us: float) -> float:
        scheduler = Scheduler(Room(3, 5_000, 15_000, 256, groups), Rules())
        for number, count in enumerate(prompt_counts):
            scheduler.submit(Arrival(number, "tenant", BATCH, count, 1, 0))
        return scheduler.company_us(Weights(prefill_us=prefill_us))

    assert patience_us(True, [], 100.0) == 0
    assert patience_us(True, [32], 100.0) == 100
    assert patience_us(True, [32, 64], 100.0) == 300
    assert patience_us(True, [2_000], 100.0) == 4_000
    assert patience_us(True, [32], 0.0) == 0  # nothing is known of this engine yet
    assert patience_us(True, [32, 32, 32], 100.0) == 0  # nobody else could begin
    assert patience_us(False, [32], 100.0) == 0
