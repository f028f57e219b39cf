"""Which models stay: within the limit, the least recently used go first, nobody leaves in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.inference.core.residency import Candidate, ResidencyPlan, plan_residency

flags = st.booleans()
candidates = st.lists(
    st.builds(
        Candidate,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        size_bytes=st.integers(0, 40),
        last_used_s=st.integers(0, 9).map(float),
        loaded=flags,
        pinned=flags,
        busy=flags,
        wanted=flags,
    ),
    max_size=9,
    unique_by=lambda model: model.name,
)
limits = st.none() | st.integers(0, 150)


def carry_out(models: Sequence[Candidate], plan: ResidencyPlan) -> list[Candidate]:
    return [
        replace(
            model,
            loaded=(model.loaded and model.name not in plan.unload) or model.name in plan.load,
        )
        for model in models
    ]


@settings(max_examples=120, deadline=None)
@given(models=candidates, limit=limits)
def test_the_limit_holds_unless_what_may_not_leave_exceeds_it(
    models: list[Candidate], limit: int | None
) -> None:
    plan = plan_residency(models, limit)
    after = [model for model in carry_out(models, plan) if model.loaded]
    assert plan.used_bytes == sum(model.size_bytes for model in after)
    if limit is not None and plan.used_bytes > limit:
        assert plan.excess_bytes == plan.used_bytes - limit
        assert not any(model.may_leave and model.size_bytes for model in after)
        assert not any(m.size_bytes for m in models if m.name in plan.load)
    else:
        assert plan.excess_bytes == 0


@settings(max_examples=120, deadline=None)
@given(models=candidates, limit=limits)
def test_pinned_busy_and_wanted_models_never_leave(
    models: list[Candidate], limit: int | None
) -> None:
    by_name = {model.name: model for model in models}
    plan = plan_residency(models, limit)
    assert all(by_name[name].may_leave for name in plan.unload)
    assert all(not by_name[name].loaded for name in plan.load)
    assert not set(plan.unload) & set(plan.load)


@settings(max_examples=120, deadline=None)
@given(models=candidates, limit=limits)
def test_everyone_asked_for_is_loaded_or_refused_with_what_was_missing(
    models: list[Candidate], limit: int | None
) -> None:
    plan = plan_residency(models, limit)
    asked = {m.name for m in models if not m.loaded and (m.pinned or m.wanted)}
    refused = {refusal.name for refusal in plan.refused}
    assert asked == set(plan.load) | refused
    assert not set(plan.load) & refused
    assert all(refusal.missing_bytes > 0 for refusal in plan.refused)
    if limit is None:
        assert not plan.refused and not plan.unload


@settings(max_examples=120, deadline=None)
@given(models=candidates, limit=st.integers(0, 150))
def test_none_of_those_that_leave_would_fit_again(models: list[Candidate], limit: int) -> None:
    by_name = {model.name: model for model in models}
    plan = plan_residency(models, limit)
    for name in plan.unload:
        assert plan.used_bytes + by_name[name].size_bytes > limit


@settings(max_examples=120, deadline=None)
@given(models=candidates, limit=limits)
def test_a_plan_carried_out_leaves_nothing_to_do(
    models: list[Candidate], limit: int | None
) -> None:
    plan = plan_residency(models, limit)
    again = plan_residency(carry_out(models, plan), limit)
    assert (again.unload, again.load) == ((), ())
    assert again.used_bytes == plan.used_bytes


@settings(max_examples=80, deadline=None)
@given(models=candidates, limit=limits, seed=st.randoms())
def test_the_order_of_the_values_does_not_matter(
    models: list[Candidate], limit: int | None, seed: object
) -> None:
    shuffled = list(models)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_residency(shuffled, limit) == plan_residency(models, limit)


def test_the_least_recently_used_makes_room() -> None:
    models = [
        Candidate("old", 4, 1.0, loaded=True),
        Candidate("middle", 4, 2.0, loaded=True),
        Candidate("new", 4, 3.0, wanted=True),
    ]
    plan = plan_residency(models, 8)
    assert (plan.unload, plan.load, plan.used_bytes) == (("old",), ("new",), 8)


def test_a_small_old_one_stays_where_only_a_large_one_has_to_go() -> None:
    models = [
        Candidate("old", 1, 1.0, loaded=True),
        Candidate("large", 10, 2.0, loaded=True),
        Candidate("new", 8, 3.0, wanted=True),
    ]
    assert plan_residency(models, 11).unload == ("large",)


def test_one_that_cannot_fit_says_how_much_is_missing_and_moves_nobody() -> None:
    models = [
        Candidate("pinned", 6, 1.0, loaded=True, pinned=True),
        Candidate("other", 2, 2.0, loaded=True),
        Candidate("new", 5, 3.0, wanted=True),
    ]
    plan = plan_residency(models, 10)
    assert plan.unload == () and plan.load == ()
    assert plan.refused[0].missing_bytes == 1
    assert plan.refused[0].reason == "new needs 1 bytes more than can be freed"


def test_a_lowered_limit_unloads_by_age() -> None:
    models = [Candidate(name, 3, age, loaded=True) for name, age in (("a", 3), ("b", 1))]
    assert plan_residency(models, 3).unload == ("b",)
