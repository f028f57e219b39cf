"""The breaker: three failures eject, each time for longer, and one answer forgives everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.clients.instances.breaker import (
    FAILURES_TO_EJECT,
    FIRST_EJECTION_S,
    LONGEST_EJECTION_S,
    Breaker,
    record_failure,
    record_success,
)

# (success, seconds since the outcome before)
histories = st.lists(st.tuples(st.booleans(), st.floats(0, 60)), max_size=60)


def fail(breaker: Breaker, now: float, times: int = 1) -> Breaker:
    for _ in range(times):
        breaker = record_failure(breaker, now)
    return breaker


def replay(history: list[tuple[bool, float]]) -> tuple[Breaker, float]:
    breaker, now = Breaker(), 0.0
    for success, passed in history:
        now += passed
        breaker = record_success(breaker) if success else record_failure(breaker, now)
    return breaker, now


def test_three_failures_in_a_row_eject() -> None:
    assert not fail(Breaker(), 5.0, FAILURES_TO_EJECT - 1).ejected(5.0)
    ejected = fail(Breaker(), 5.0, FAILURES_TO_EJECT)
    assert ejected.ejected(5.0)
    assert ejected.ejected_until == 5.0 + FIRST_EJECTION_S


def test_an_answer_in_between_starts_the_count_again() -> None:
    breaker = record_success(fail(Breaker(), 0.0, FAILURES_TO_EJECT - 1))
    assert not fail(breaker, 0.0, FAILURES_TO_EJECT - 1).ejected(0.0)


def test_after_its_time_it_is_tried_and_one_failure_is_enough_for_longer() -> None:
    breaker = fail(Breaker(), 0.0, FAILURES_TO_EJECT)
    spans = []
    for _ in range(8):
        now = breaker.ejected_until
        assert not breaker.ejected(now)
        breaker = record_failure(breaker, now)
        assert breaker.ejected(now)
        spans.append(breaker.ejected_until - now)
    assert spans == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]


def test_calls_that_were_already_on_their_way_do_not_make_it_longer() -> None:
    ejected = fail(Breaker(), 0.0, FAILURES_TO_EJECT)
    assert fail(ejected, 0.5, 100) == ejected


def test_an_answer_forgives_everything() -> None:
    breaker = fail(Breaker(), 0.0, FAILURES_TO_EJECT)
    breaker = fail(breaker, breaker.ejected_until)
    assert record_success(breaker) == Breaker()
    untouched = Breaker()
    assert record_success(untouched) is untouched


@given(histories)
def test_whatever_happens_it_is_tried_again_in_time(
    history: list[tuple[bool, float]],
) -> None:
    breaker, now = replay(history)
    assert breaker.ejected_until <= now + LONGEST_EJECTION_S
    assert not breaker.ejected(now + LONGEST_EJECTION_S)
    assert 0 <= breaker.failure_count < FAILURES_TO_EJECT


@given(histories)
def test_an_ejection_never_ends_earlier_for_another_failure(
    history: list[tuple[bool, float]],
) -> None:
    breaker, now = replay(history)
    assert record_failure(breaker, now).ejected_until >= breaker.ejected_until


@given(histories, st.floats(0, 60))
def test_an_answer_always_readmits(history: list[tuple[bool, float]], later: float) -> None:
    breaker, now = replay(history)
    assert not record_success(breaker).ejected(now + later)
