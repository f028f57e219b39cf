"""The last-known-good rules hold for any sequence of answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.kit.discovery.registry import Instance
from farthing.kit.discovery.view import (
    RegionView,
    ViewRules,
    apply_answer,
    merge_regions,
    next_index,
    recheck_after_s,
    retry_after_s,
)

RULES = ViewRules(hold_s=5.0)


def listing(*keys: str) -> dict[str, Instance]:
    return {key: Instance(key, "edge", f"10.0.0.1:{hash(key) % 999}", "r") for key in keys}


names = st.frozensets(st.sampled_from([f"i{n}" for n in range(8)]))
answers = st.lists(
    st.tuples(names, st.floats(0, 20, allow_nan=False), st.booleans()), max_size=20
)


def test_an_empty_answer_keeps_every_instance_and_marks_it_suspect() -> None:
    view = apply_answer(RegionView(), listing("a", "b"), now_s=0, rules=RULES)
    view = apply_answer(view, {}, now_s=1, rules=RULES)
    assert set(view.held) == {"a", "b"}
    assert all(item.suspect for item in view.held.values())


def test_an_empty_answer_is_believed_when_it_is_repeated_after_the_hold() -> None:
    view = apply_answer(RegionView(), listing("a"), now_s=0, rules=RULES)
    view = apply_answer(view, {}, now_s=1, rules=RULES)
    assert recheck_after_s(view, now_s=2, rules=RULES) == 4.0
    view = apply_answer(view, {}, now_s=5.9, rules=RULES)
    assert set(view.held) == {"a"}
    view = apply_answer(view, {}, now_s=6.0, rules=RULES)
    assert not view.held
    assert recheck_after_s(view, now_s=6, rules=RULES) is None


def test_losing_one_of_three_is_believed_at_once() -> None:
    view = apply_answer(RegionView(), listing("a", "b", "c"), now_s=0, rules=RULES)
    view = apply_answer(view, listing("a", "b"), now_s=1, rules=RULES)
    assert set(view.held) == {"a", "b"}


def test_losing_two_of_three_is_held() -> None:
    view = apply_answer(RegionView(), listing("a", "b", "c"), now_s=0, rules=RULES)
    view = apply_answer(view, listing("a"), now_s=1, rules=RULES)
    assert {key: item.suspect for key, item in view.held.items()} == {
        "a": False,
        "b": True,
        "c": True,
    }


def test_an_instance_that_comes_back_is_no_longer_suspect() -> None:
    view = apply_answer(RegionView(), listing("a"), now_s=0, rules=RULES)
    view = apply_answer(view, {}, now_s=1, rules=RULES)
    view = apply_answer(view, listing("a"), now_s=2, rules=RULES)
    assert not view.held["a"].suspect
    assert not view.doubted_since_s


@given(answers)
def test_the_view_is_never_emptied_by_one_answer(
    steps: list[tuple[frozenset[str], float, bool]],
) -> None:
    view, now_s = RegionView(), 0.0
    for keys, delay_s, trusted in steps:
        now_s += delay_s
        before = view
        view = apply_answer(view, listing(*keys), now_s=now_s, rules=RULES, trusted=trusted)
        assert keys <= view.held.keys()
        assert view.held.keys() <= before.held.keys() | keys
        healthy = before.held.keys() - before.doubted_since_s.keys()
        if healthy:
            assert view.held, "healthy instances never all go in one answer"
        lost_healthy = healthy - view.held.keys()
        assert len(lost_healthy) <= RULES.shrink_ratio * len(healthy)


@given(answers)
def test_suspects_are_exactly_the_doubted_ones(
    steps: list[tuple[frozenset[str], float, bool]],
) -> None:
    view, now_s = RegionView(), 0.0
    for keys, delay_s, trusted in steps:
        now_s += delay_s
        view = apply_answer(view, listing(*keys), now_s=now_s, rules=RULES, trusted=trusted)
        suspects = {key for key, item in view.held.items() if item.suspect}
        assert suspects == view.doubted_since_s.keys() == view.held.keys() - keys
        assert all(since_s <= now_s for since_s in view.doubted_since_s.values())


@given(answers, names)
def test_untrusted_answers_never_remove(
    steps: list[tuple[frozenset[str], float, bool]], first: frozenset[str]
) -> None:
    view = apply_answer(RegionView(), listing(*first), now_s=0, rules=RULES)
    now_s = 0.0
    for keys, delay_s, _ in steps:
        now_s += delay_s
        view = apply_answer(view, listing(*keys), now_s=now_s, rules=RULES, trusted=False)
        assert first <= view.held.keys()


@given(names)
def test_a_good_answer_repeated_after_the_hold_is_the_truth(keys: frozenset[str]) -> None:
    view = apply_answer(RegionView(), listing("x", "y", "i0"), now_s=0, rules=RULES)
    view = apply_answer(view, listing(*keys), now_s=1, rules=RULES)
    view = apply_answer(view, listing(*keys), now_s=6, rules=RULES)
    assert view.held == listing(*keys)


def test_merging_keeps_instances_of_two_regions_that_share_an_id() -> None:
    one = RegionView(held=listing("a"))
    two = RegionView(held=listing("a", "b"))
    merged = merge_regions([("west", two), ("east", one)])
    assert set(merged) == {"a", "a@west", "b"}
    assert merged["a@west"].id == "a@west"


@given(st.integers(0, 100), st.integers(-5, 100))
def test_an_index_that_ran_backwards_starts_over(previous: int, received: int) -> None:
    index = next_index(previous, received)
    assert index == (received if received >= previous and received > 0 else 0)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_retries_wait_between_50_ms_and_2_s(error_count: int, jitter_ratio: float) -> None:
    assert 0.05 <= retry_after_s(error_count, jitter_ratio) <= 2.0
