"""What is computed once is not computed again, and rows stay in the lowest slots."""

from __future__ import annotations

from tests.support.simulated_engine import SimulatedEngine, Wish

from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.prefixes import (
    BLOCK_TOKEN_COUNT,
    PrefixIndex,
    hash_blocks,
)
from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import Copy

ROOM = Room(4, 1_000, 4_000, 512)
SYSTEM = [1, 2, 3, 4] * 32  # 8 blocks


def test_the_next_request_of_a_conversation_begins_where_the_last_one_ended() -> None:
    engine = SimulatedEngine(ROOM)
    first = engine.submit(Wish([*SYSTEM, 0, 1], token_limit=40))
    engine.run()
    said = engine.requests[first].tokens
    second = engine.submit(Wish([*said, 4, 4, 4], token_limit=2))
    engine.run()
    held = len(said) - 1  # the last token drawn was never computed
    assert engine.requests[second].reused_count == held // BLOCK_TOKEN_COUNT * BLOCK_TOKEN_COUNT


def test_instructions_in_use_by_another_row_are_copied() -> None:
    engine = SimulatedEngine(ROOM)
    engine.submit(Wish([*SYSTEM, 0], token_limit=50))
    engine.step()
    second = engine.submit(Wish([*SYSTEM, 1, 1], token_limit=2))
    engine.run()
    assert engine.requests[second].reused_count == len(SYSTEM)


def test_requests_that_come_together_compute_their_instructions_once() -> None:
    engine = SimulatedEngine(ROOM)
    rows = [engine.submit(Wish([*SYSTEM, number, 0], token_limit=2)) for number in range(4)]
    engine.run()
    assert sum(engine.requests[row_id].reused_count for row_id in rows) == 3 * len(SYSTEM)
    assert engine.slots.computed_count == len(SYSTEM) + 4 * (2 + 1)


def test_tenants_and_adapters_share_nothing() -> None:
    engine = SimulatedEngine(ROOM)
    for tenant, adapter in (("a", ""), ("b", ""), ("a", "x")):
        row_id = engine.submit(
            Wish([*SYSTEM, 0], token_limit=2, tenant=tenant, adapter=adapter)
        )
        engine.run()
        assert engine.requests[row_id].reused_count == 0


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    engine = SimulatedEngine(ROOM)
    for _ in range(2):
        row_id = engine.submit(Wish(SYSTEM, token_limit=2))
        engine.run()
    assert engine.requests[row_id].reused_count == len(SYSTEM) - BLOCK_TOKEN_COUNT


def test_a_kept_beginning_moves_out_of_the_way_while_there_are_free_slots() -> None:
    engine = SimulatedEngine(ROOM)
    for text in range(3):
        engine.submit(Wish([text + 1, *SYSTEM], token_limit=2))
        engine.run()
    for text in range(3):
        again = engine.submit(Wish([text + 1, *SYSTEM, 0], token_limit=2))
        engine.run()
        assert engine.requests[again].reused_count == len(SYSTEM)


def test_rows_stay_in_the_lowest_slots_as_others_leave() -> None:
    engine = SimulatedEngine(ROOM)
    for limit in (3, 3, 3, 40):
        engine.submit(Wish([1] * 5, token_limit=limit))
    engine.run()
    moved = [move for plan in engine.steps for move in plan.moves if isinstance(move, Copy)]
    assert moved == [Copy(3, 0, 7)]
    assert [work.slot for work in engine.steps[-1].work] == [0]


def test_a_row_about_to_end_is_not_moved() -> None:
    engine = SimulatedEngine(ROOM)
    for limit in (3, 3, 3, 9):
        engine.submit(Wish([1] * 5, token_limit=limit))
    engine.run()
    assert not any(plan.moves for plan in engine.steps)


def test_slots_of_one_memory_are_reused_where_they_are() -> None:
    engine = SimulatedEngine(Room(4, 200, 400, 64))
    for text in range(3):
        engine.submit(Wish([text + 1] * 80, token_limit=2))
        engine.run()
    again = engine.submit(Wish([2] * 80, token_limit=2))
    engine.run()
    assert engine.requests[again].reused_count == 64
    assert not any(isinstance(move, Copy) for plan in engine.steps for move in plan.moves)


def test_what_is_kept_in_one_memory_goes_when_a_row_needs_the_room() -> None:
    engine = SimulatedEngine(Room(4, 200, 300, 64))
    for text in range(3):
        engine.submit(Wish([text + 1] * 80, token_limit=2))
        engine.run()
    engine.submit(Wish([4] * 150, token_limit=40))
    engine.run()
    oldest = engine.submit(Wish([1] * 80, token_limit=2))
    engine.run()
    assert engine.requests[oldest].reused_count == 0


def test_right_guesses_save_steps_and_wrong_ones_cost_nothing_but_their_tokens() -> None:
    plain, guessing = SimulatedEngine(ROOM), SimulatedEngine(ROOM)
    plain.submit(Wish([1] * 5, token_limit=60))
    guessing.submit(Wish([1] * 5, token_limit=60, guesses=(4,)))
    plain.run()
    guessing.run()
    assert plain.requests[0].answer == guessing.requests[0].answer
    assert len(guessing.steps) < 0.75 * len(plain.steps)


def test_guesses_give_way_when_a_step_would_get_too_long() -> None:
    engine = SimulatedEngine(Room(16, 100, 1_600, 64))
    for _ in range(12):
        engine.submit(
            Wish([1] * 5, token_limit=40, guesses=(6,), priority=Priority.INTERACTIVE)
        )
    engine.run()
    assert max(engine.step_us) <= 50_000


def test_a_lost_step_forgets_what_was_kept_and_nobody() -> None:
    engine = SimulatedEngine(ROOM)
    engine.submit(Wish([*SYSTEM, 0], token_limit=2))
    engine.run()
    going = engine.submit(Wish([1] * 20, token_limit=10))
    engine.step()
    engine.step(lose=True)
    after = engine.submit(Wish([*SYSTEM, 0], token_limit=2))
    engine.run()
    assert engine.requests[going].state == "done"
    assert engine.requests[after].reused_count == 0


def test_chains_of_hashes_grow_by_whole_blocks_and_depend_on_all_before() -> None:
    tokens = list(range(50))
    chain = hash_blocks(tokens, tenant_id="a", adapter="")
    assert len(chain) == 3
    assert hash_blocks(tokens, tenant_id="a", adapter="", before=chain[:1]) == chain
    other = hash_blocks([9, *tokens[1:]], tenant_id="a", adapter="")
    assert not set(chain) & set(other)


def test_the_index_knows_the_longest_beginning_and_forgets_what_was_replaced() -> None:
    index = PrefixIndex(3)
    index.hold(0, [b"a", b"b", b"c"])
    index.hold(1, [b"a", b"b"])
    assert index.longest([b"a", b"b", b"x"]) == (2, frozenset({0, 1}))
    assert index.longest([b"a", b"b", b"c", b"d"]) == (3, frozenset({0}))
    index.hold(0, [b"a", b"z"])
    assert index.longest([b"a", b"b", b"c"]) == (2, frozenset({1}))
    assert index.longest([b"q"]) == (0, frozenset())


def test_better_classes_lie_below_worse_ones_as_rows_come_and_go() -> None:
    interactive, _, batch = Priority
    room = Room(6, 1_000, 6_000, 512)
    engine = SimulatedEngine(room)
    classes = {
        engine.submit(Wish([n] * 40, token_limit=400, priority=batch)): batch for n in range(6)
    }
    for _ in range(3):
        engine.step()

    def order() -> list[Priority]:
        found = {w.slot: classes[w.row_id] for plan in engine.steps[-6:] for w in plan.work}
        return [found[slot] for slot in sorted(found)]

    for limit in (20, 60, 30):  # not the order in which they end
        row_id = engine.submit(Wish([7, limit] * 4, token_limit=limit, priority=interactive))
        classes[row_id] = interactive
        for _ in range(6):
            engine.step()
    assert order() == [interactive] * 3 + [batch] * 3
    ours = [row_id for row_id, priority in classes.items() if priority is interactive]
    for count in (2, 1, 0):
        while sum(engine.requests[row_id].state == "running" for row_id in ours) > count:
            engine.step()
        for _ in range(20):
            engine.step()
        assert order() == [interactive] * count + [batch] * (6 - count)
    engine.run()


def test_a_gap_is_closed_without_a_worse_row_among_better_ones() -> None:
    interactive, _, batch = Priority
    engine = SimulatedEngine(Room(6, 1_000, 6_000, 512))
    wishes = [(10, interactive), (60, interactive), (60, interactive), (60, batch), (60, batch)]
    for limit, priority in wishes:
        engine.submit(Wish([limit] * 40, token_limit=limit, priority=priority))
    while engine.requests[0].state != "done":
        engine.step()
    for _ in range(4):
        engine.step()
    slots = {work.row_id: work.slot for plan in engine.steps[-4:] for work in plan.work}
    assert {slots[1], slots[2]} == {0, 1} and {slots[3], slots[4]} == {2, 3}
