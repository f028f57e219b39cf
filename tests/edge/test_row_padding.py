"""Rows of no consequence: added where that was measured to be sooner, and never to be noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.row_padding import RowPadding
from farthing.inference.batch_backend import SlotWork

MOST = 16


def learn(
    padding: RowPadding, row_count: int, times_ns: Callable[[int], int], most_count: int = MOST
) -> list[int]:
    """Steps until it has settled, and some more; how many rows each was computed with."""
    computed = []
    for _ in range(40):
        count = padding.rows_for(row_count, most_count)
        computed.append(count)
        padding.note(row_count, count, times_ns(count))
    return computed


def by_fours(count: int) -> int:
    """As a product computes rows by four, and each left over like one alone."""
    fours, left = divmod(count, 4)
    return 600 * fours + 275 * left + 5


def test_three_rows_become_four_where_rows_go_by_four() -> None:
    padding = RowPadding()
    assert learn(padding, 3, by_fours)[-10:] == [4] * 10
    assert learn(padding, 7, by_fours)[-10:] == [8] * 10
    assert learn(padding, 2, by_fours)[-10:] == [2] * 10
    assert learn(padding, 1, by_fours) == [1] * 40
    assert learn(padding, 3, by_fours, most_count=3) == [3] * 40, "there is no slot to spare"


def test_any_number_may_be_the_soonest() -> None:
    """As F16 weights on AVX-512: 9 rows in 18.0 ms, 8 in 20.9."""
    times_ms = {8: 20.9, 9: 18.0, 10: 23.5, 11: 19.5}
    computed = learn(RowPadding(), 8, lambda count: int(1e6 * times_ms[count]))
    assert computed[-10:] == [9] * 10


def test_nothing_is_added_where_each_row_costs_the_same() -> None:
    assert learn(RowPadding(), 3, lambda count: 1000 * count)[-10:] == [3] * 10


def test_nothing_is_added_for_a_gain_within_noise() -> None:
    assert learn(RowPadding(), 3, lambda count: 1000 - count)[-10:] == [3] * 10


def test_all_ways_are_tried_in_turns_before_one_is_chosen() -> None:
    assert learn(RowPadding(), 3, by_fours)[:8] == [3, 4, 5, 6] * 2


@given(st.integers(1, MOST), st.integers(1, MOST), st.lists(st.integers(1, 10**9), max_size=60))
def test_never_fewer_rows_than_wanted_nor_more_than_there_is_room_for(
    row_count: int, most_count: int, times_ns: list[int]
) -> None:
    padding = RowPadding()
    for time_ns in times_ns:
        count = padding.rows_for(row_count, most_count)
        assert row_count <= count <= max(row_count, most_count)
        padding.note(row_count, count, time_ns)


def test_added_rows_change_no_answer_and_leave_nothing_behind(
    open_backend: Callable[..., LlamaBatchBackend],
) -> None:
    """Beside them a slot that is kept for its beginning, and one that is full."""
    prompt = [*range(10, 40)]

    def logits(adds: bool, kept_count: int) -> list[np.ndarray]:
        backend = open_backend("F32")
        learn(backend.padding, 3, by_fours if adds else lambda count: 1000 * count, 6)
        assert backend.padding.rows_for(3, 6) == (4 if adds else 3)
        if kept_count:
            backend.step([SlotWork(3, 0, (prompt * 20)[:kept_count], 0)])
        backend.step([SlotWork(slot, 0, prompt[slot:], 1) for slot in range(3)])
        found = []
        for place in range(6):
            output = backend.step(
                [SlotWork(slot, 30 - slot + place, [50 + slot + place], 1) for slot in range(3)]
            )
            assert output.row_count == 3
            found += [output.row(row) for row in range(3)]
            assert output.best().tolist() == [int(row.argmax()) for row in found[-3:]]
        if kept_count and kept_count < backend.layout.slot_token_capacity:
            found.append(backend.step([SlotWork(3, kept_count, [7], 1)]).row(0))
        return found

    capacity = open_backend("F32").layout.slot_token_capacity
    for kept_count in (0, 20, capacity):
        np.testing.assert_allclose(
            logits(True, kept_count), logits(False, kept_count), atol=1e-4
        )
