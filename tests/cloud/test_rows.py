"""Slots that decode together come to lie together, and nothing that a slot holds is ever lost on the way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.cloud.core.rows import Move, Rows, Window

SLOTS = 5


def filled(*token_counts: int, tokens_per_idle_row: int = 100) -> Rows:
    rows = Rows(len(token_counts), tokens_per_idle_row=tokens_per_idle_row)
    for slot, count in enumerate(token_counts):
        rows.renew([slot])
        rows.set_held(slot, count)
    return rows


def test_neighbours_are_computed_where_they_lie() -> None:
    rows = filled(10, 10, 10)
    assert rows.gather([0, 1, 2]) == (Window(0, 3), [])
    assert rows.gather([1, 2]) == (Window(1, 2), [])
    assert rows.gather([2]) == (Window(2, 1), [])


def test_the_last_one_moves_into_the_gap_and_its_tenant_out_of_the_way() -> None:
    rows = filled(10, 20, 30)
    window, moves = rows.gather([0, 2])
    assert window == Window(0, 2)
    assert moves == [Move(1, 3, 20), Move(2, 1, 30)]
    assert [rows.row_of(slot) for slot in range(3)] == [0, 3, 1]


def test_a_long_slot_moves_only_when_idle_rows_have_cost_as_much() -> None:
    rows = filled(10, 0, 250)
    assert rows.gather([0, 2]) == (Window(0, 3), [])
    assert rows.gather([0, 2]) == (Window(0, 3), [])
    assert rows.gather([0, 2]) == (Window(0, 2), [Move(2, 1, 250)])


def test_steps_without_idle_rows_forget_the_debt() -> None:
    rows = filled(10, 0, 150)
    rows.gather([0, 2])
    rows.gather([0])
    assert rows.gather([0, 2]) == (Window(0, 3), [])


def test_new_content_gets_neighbouring_rows_where_there_are_such() -> None:
    rows = filled(10, 10, 10, 10)
    rows.renew([0])
    rows.renew([1, 2])
    assert rows.row_of(2) == rows.row_of(1) + 1


def test_whoever_does_nothing_makes_room_for_new_content_to_lie_together() -> None:
    rows = filled(10, 20, 30, 40)  # and a free row behind them
    assert rows.renew([1, 3], busy=[1, 3]) == []
    assert (rows.row_of(1), rows.row_of(3)) == (3, 4)
    rows = filled(10, 20, 30, 40)
    assert rows.renew([0, 2], busy=[0, 2]) == [Move(1, 4, 20)]
    assert [rows.row_of(slot) for slot in range(4)] == [0, 4, 1, 3]
    rows = filled(10, 50, 10, 50, 5)
    assert rows.renew([0, 2]) == [Move(4, 2, 5)]  # not into the rows that are cleared
    assert [rows.row_of(slot) for slot in range(5)] == [4, 1, 5, 3, 2]
    rows = filled(10, 20, 30, 40)
    assert rows.renew([0, 2], busy=range(4)) == []  # nobody may be moved
    assert (rows.row_of(0), rows.row_of(2)) == (0, 2)


def test_what_holds_more_than_a_run_costs_stays_where_it_is() -> None:
    rows = filled(1, 801, 1, 900, tokens_per_idle_row=100)
    assert rows.renew([0, 2]) == []
    assert (rows.row_of(0), rows.row_of(2)) == (0, 2)
    rows = filled(1, 800, 1, 900, tokens_per_idle_row=100)
    assert rows.renew([0, 2]) == [Move(1, 4, 800)]


def test_a_change_of_place_is_told_by_the_version() -> None:
    rows = filled(10, 10)
    before = rows.version
    rows.gather([0, 1])
    assert rows.version == before
    rows.renew([0])
    assert rows.version != before


@settings(max_examples=300, deadline=None)
@given(
    idle=st.integers(1, 400),
    steps=st.lists(
        st.tuples(
            st.sets(st.integers(0, SLOTS - 1), min_size=1),
            st.sets(st.integers(0, SLOTS - 1)),
        ),
        max_size=40,
    ),
)
def test_every_slot_keeps_its_own_content_whatever_is_computed(
    idle: int, steps: list[tuple[set[int], set[int]]]
) -> None:
    """`memory` is what a real cache would hold: moves copy, a step appends to each row of its window."""
    rows = Rows(SLOTS, tokens_per_idle_row=idle)
    memory: list[list[str]] = [[] for _ in range(rows.row_count)]
    truth: dict[int, list[str]] = {}
    for number, (computed, renewed) in enumerate(steps):
        if renewed:
            for move in rows.renew(sorted(renewed), busy=computed):
                memory[move.target][: move.token_count] = memory[move.source][
                    : move.token_count
                ]
            truth.update({slot: [] for slot in renewed})
        live = sorted(slot for slot in computed if slot in truth)
        if not live:
            continue
        window, moves = rows.gather(live)
        for move in moves:
            memory[move.target][: move.token_count] = memory[move.source][: move.token_count]
        places = {rows.row_of(slot): slot for slot in live}
        for row in range(window.first, window.first + window.row_count):
            end = rows.held_in(row)
            memory[row][end:] = [f"step {number} slot {places.get(row)}"]
            if row in places:
                truth[places[row]].append(memory[row][end])
                rows.set_held(places[row], end + 1)
        assert set(places) <= set(range(window.first, window.first + window.row_count))
        for slot, content in truth.items():
            assert memory[rows.row_of(slot)][: rows.held[slot]] == content
    taken = [rows.row_of(slot) for slot in truth]
    assert len(set(taken)) == len(taken)
