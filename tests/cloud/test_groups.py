"""Which work of a step shares a run, and how many slots fit into memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.cloud.core.budget import MemoryNeed
from farthing.cloud.core.groups import group_work
from farthing.inference.batch_backend import SlotWork


def work(*sizes: tuple[int, int]) -> list[SlotWork]:
    """Of each slot: where it starts, and how many tokens."""
    return [SlotWork(slot, start, [1] * count) for slot, (start, count) in enumerate(sizes)]


def test_single_tokens_go_together_and_chunks_alone() -> None:
    groups = group_work(work((5, 1), (7, 3), (9, 1), (0, 1), (2, 2)))
    assert groups.singles == (0, 2, 3)
    assert groups.chunks == (1, 4)
    assert groups.prompts == ()


def test_prompts_of_about_one_length_share_a_run() -> None:
    groups = group_work(work((0, 30), (0, 32), (0, 28), (0, 8), (0, 7)))
    assert groups.prompts == ((1, 0, 2), (3, 4))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=12))
def test_all_work_is_in_one_group_and_padding_stays_small(sizes: list[tuple[int, int]]) -> None:
    given_work = work(*sizes)
    groups = group_work(given_work)
    everything = [*groups.singles, *groups.chunks, *(n for g in groups.prompts for n in g)]
    assert sorted(everything) == list(range(len(sizes)))
    for group in groups.prompts:
        counts = [len(given_work[n].tokens) for n in group]
        assert sum(counts) >= 0.75 * max(counts) * len(counts)


def test_slots_fill_what_the_weights_leave_less_one_row() -> None:
    need = MemoryNeed(fixed_bytes=1_000, row_bytes=100)
    assert need.slots_within(1_500) == 4
    assert need.total_bytes(4) == 1_500
    assert need.slots_within(1_000) == -1


@given(st.integers(0, 10**12), st.integers(1, 10**9), st.integers(0, 10**12))
def test_as_many_slots_as_fit_and_no_more(fixed: int, row: int, limit: int) -> None:
    need = MemoryNeed(fixed, row)
    count = need.slots_within(limit)
    assert need.total_bytes(count) <= limit < need.total_bytes(count + 1)
