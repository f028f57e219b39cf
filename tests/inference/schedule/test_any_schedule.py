"""Whatever joins, leaves, waits, gives way, guesses or is lost: every answer is the one it would be alone."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.simulated_engine import SimulatedEngine, Wish, expected_answer

from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.scheduler import LineFull, Rules, TooLong
from farthing.inference.core.schedule.slots import Room

rooms = st.builds(
    lambda slots, per_slot, share, step: Room(
        slots, per_slot, max(per_slot // 2, slots * per_slot * share // 100), step
    ),
    st.integers(1, 6),
    st.integers(20, 120),
    st.sampled_from([40, 70, 100, 100]),
    st.integers(1, 64),
)
beginnings = st.sampled_from([[1] * 40, [1] * 16 + [2] * 24, [3] * 33, []])
wishes = st.builds(
    Wish,
    prompt=st.builds(
        lambda start, rest: [*start, *rest],
        beginnings,
        st.lists(st.integers(0, 4), min_size=1, max_size=40),
    ),
    token_limit=st.integers(1, 40),
    tenant=st.sampled_from("abc"),
    priority=st.sampled_from(Priority),
    adapter=st.sampled_from(["", "", "x", "yy"]),
    guesses=st.sampled_from([(0,), (0,), (2,), (0, 5, 1)]),
)
deeds = st.one_of(
    st.tuples(st.just("submit"), wishes),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("lose"), st.none()),
)
rules = st.builds(
    Rules,
    queue_capacity=st.integers(1, 20),
    aging_us=st.sampled_from([20_000, 5_000_000]),
    save_token_capacity=st.sampled_from([0, 60, 10_000]),
)


@settings(max_examples=400, deadline=None)
@given(rooms, rules, st.lists(deeds, max_size=40))
@example(  # wrong guesses of a row that gave way lay where nobody counted them
    Room(3, 55, 66, 9),
    Rules(queue_capacity=1, aging_us=20_000, save_token_capacity=0),
    [
        ("submit", Wish([0] * 9, token_limit=18, guesses=(2,))),
        ("step", 11),
        ("submit", Wish([1] * 40 + [0], token_limit=1, priority=Priority.INTERACTIVE)),
    ],
)
def test_every_answer_is_the_one_it_would_be_alone(
    room: Room, rules: Rules, script: list[tuple[str, object]]
) -> None:
    engine = SimulatedEngine(room, rules)
    for deed, detail in script:
        match deed, detail:
            case "submit", Wish() as wish:
                row_id = len(engine.requests)
                try:
                    engine.submit(wish)
                except (LineFull, TooLong):
                    engine.requests[row_id].state = "refused"
            case "step", int() as count:
                for _ in range(count):
                    engine.step()
            case "cancel", int() as number if number < len(engine.requests):
                engine.cancel(number)
            case "lose", _:
                engine.step(lose=True)
    engine.run()
    for one in engine.requests.values():
        assert one.state in ("done", "cancelled", "refused", "displaced")
        alone = expected_answer(one.wish)
        assert one.answer == (alone if one.state == "done" else alone[: len(one.answer)])
    occupancy = engine.scheduler.occupancy(engine.now_us)
    assert (occupancy.running_count, occupancy.waiting_count, occupancy.paused_count) == (
        0,
        0,
        0,
    )
    assert (occupancy.kv_token_count, occupancy.saved_token_count) == (0, 0)
    assert not engine.slots.saved
    # What the scheduler believes to be kept is what the slots really hold.
    assert occupancy.cached_token_count <= sum(map(len, engine.slots.slots))
