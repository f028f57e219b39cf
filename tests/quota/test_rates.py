from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.quota.core.rates import (
    Window,
    add_to_window,
    correct_window,
    count_window,
    wait_ms,
)

steps = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 5)), max_size=60)


@given(steps, st.integers(1, 12))
def test_no_sixty_seconds_ever_see_more_than_the_limit(
    asked: list[tuple[int, int]], limit: int
) -> None:
    window: Window = ()
    admitted: list[tuple[int, int]] = []
    now_ms = 0
    for gap_ms, count in asked:
        now_ms += gap_ms
        if wait_ms(window, count, limit, now_ms) == 0:
            window = add_to_window(window, count, now_ms)
            admitted.append((now_ms, count))
            assert len(window) <= 61
    for start_ms, _ in admitted:
        inside = [n for at_ms, n in admitted if start_ms <= at_ms < start_ms + 60_000]
        assert sum(inside) <= limit


@given(steps, st.integers(1, 12), st.integers(1, 12))
def test_the_advised_wait_is_the_shortest_that_works(
    asked: list[tuple[int, int]], limit: int, count: int
) -> None:
    window: Window = ()
    now_ms = 0
    for gap_ms, more in asked:
        now_ms += gap_ms
        window = add_to_window(window, more, now_ms)
    wait = wait_ms(window, count, limit, now_ms)
    if count > limit:
        assert wait == -1
        return
    assert 0 <= wait <= 61_000
    assert count_window(window, now_ms + wait) + count <= limit
    if wait:
        assert count_window(window, now_ms + wait - 1) + count > limit


def test_a_correction_reaches_the_second_it_was_counted_in_only() -> None:
    window = add_to_window(add_to_window((), 10, 1_500), 5, 3_000)
    assert count_window(correct_window(window, -4, 1_900), 4_000) == 11
    assert count_window(correct_window(window, -40, 1_000), 4_000) == 5
    assert correct_window(window, 7, 2_000) == window


def test_a_clock_that_goes_back_forgets_nothing() -> None:
    window = add_to_window((), 3, 100_000)
    assert count_window(add_to_window(window, 2, 10_000), 10_000) == 5
