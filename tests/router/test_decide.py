"""The decision: hard limits hold, the least objective wins, every loser knows why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st
from tests.support.routing_worlds import (
    HERE,
    budgets,
    decide,
    easy_requests,
    lively_worlds,
    load_of,
    mild_budgets,
    mild_requests,
    name_of,
    policies,
    property_test,
    requests,
    worlds,
)

from farthing.clients.instances.view import InstanceState, InstanceView
from farthing.pricing import PriceBook, sum_lines
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import World, assess, bounds, choose
from farthing.router.core.policy import BUILT_IN, Policy
from farthing.router.core.request import Limits, Privacy, RequestFeatures


@property_test
@given(mild_requests, lively_worlds, policies, mild_budgets)
def test_the_winner_breaks_no_hard_limit(
    request: RequestFeatures, world: World, policy: Policy, budget_nano_usd: int | None
) -> None:
    chosen = decide(request, world, policy, budget_nano_usd).chosen
    assume(chosen is not None)
    assert chosen is not None
    instance, model, wish = chosen.instance, chosen.model, request.limits
    assert instance.state in (InstanceState.READY, InstanceState.SUSPECT)
    assert request.model in ("", model.name)
    assert request.needs <= model.capabilities
    assert not wish.residency or instance.region in wish.residency
    if wish.privacy is not Privacy.ANY:
        assert instance.region == HERE
    if wish.privacy is Privacy.EDGE_ONLY:
        assert instance.tier == "edge"
    assert chosen.quality_ratio >= wish.min_quality_ratio
    assert not wish.max_cost_nano_usd or chosen.estimated_nano_usd <= wish.max_cost_nano_usd
    assert not wish.max_first_token_ms or chosen.first_token_ms <= wish.max_first_token_ms
    assert not wish.max_total_ms or chosen.total_ms <= wish.max_total_ms
    assert not model.context_length or chosen.input_token_count < model.context_length
    assert budget_nano_usd is None or chosen.estimated_nano_usd <= budget_nano_usd
    assert world.book.deployment(instance.tier, instance.region, model.name) is not None
    assert world.book.link_nano_usd_per_gb(HERE, instance.region) is not None
    assert world.book.link_nano_usd_per_gb(instance.region, HERE) is not None


@property_test
@given(requests, worlds, policies, budgets)
def test_everyone_is_accounted_for_and_every_loser_knows_why(
    request: RequestFeatures, world: World, policy: Policy, budget_nano_usd: int | None
) -> None:
    decision = decide(request, world, policy, budget_nano_usd)
    everyone = {(i.instance_id, model.name) for i in world.instances for model in i.models}
    losers = [name_of(candidate) for candidate in decision.rejected]
    assert len(losers) == len(set(losers))
    assert {*losers, name_of(decision.chosen)} - {None} == everyone
    for candidate in decision.rejected:
        assert candidate.rejection is not None
        assert candidate.detail
    estimates = [candidate.estimated_nano_usd for candidate in decision.rejected]
    assert estimates == sorted(estimates)
    if decision.chosen is not None:
        assert decision.chosen.rejection is None
        assert decision.chosen.model.name in decision.reason
    else:
        assert all(c.rejection is not Rejection.COST for c in decision.rejected)
    assert (decision.policy, decision.price_version) == (policy.name, "1")


@property_test
@given(easy_requests, lively_worlds, policies)
def test_the_least_objective_wins_then_the_least_loaded_then_the_first_id(
    request: RequestFeatures, world: World, policy: Policy
) -> None:
    decision = decide(request, world, policy)
    chosen = decision.chosen
    runners_up = [c for c in decision.rejected if c.rejection is Rejection.COST]
    assume(chosen is not None and runners_up)
    assert chosen is not None

    def rank(candidate: Candidate) -> tuple[bool, int, int, str]:
        return (
            candidate.instance.state is InstanceState.SUSPECT,
            candidate.objective_nano_usd,
            load_of(candidate, world),
            candidate.instance.instance_id,
        )

    assert all(rank(chosen) <= rank(loser) for loser in runners_up)


@property_test
@given(easy_requests, worlds, policies)
def test_a_doubted_instance_wins_only_when_no_other_qualifies(
    request: RequestFeatures, world: World, policy: Policy
) -> None:
    decision = decide(request, world, policy)
    if decision.chosen is not None and decision.chosen.instance.state is InstanceState.SUSPECT:
        for loser in decision.rejected:
            if loser.rejection is Rejection.COST:
                assert loser.instance.state is InstanceState.SUSPECT


@property_test
@given(requests, worlds, policies, budgets)
def test_the_order_of_instances_changes_nothing(
    request: RequestFeatures, world: World, policy: Policy, budget_nano_usd: int | None
) -> None:
    turned = world._replace(instances=world.instances[::-1])
    forth = decide(request, world, policy, budget_nano_usd)
    back = decide(request, turned, policy, budget_nano_usd)
    if forth.chosen is None:
        assert back.chosen is None
    else:
        assert back.chosen is not None
        # Two models of one instance may tie in everything.
        assert back.chosen.instance.instance_id == forth.chosen.instance.instance_id
        assert back.chosen.objective_nano_usd == forth.chosen.objective_nano_usd


_WORSE: list[Callable[[InstanceView], InstanceView]] = [
    lambda view: replace(view, rtt_us=view.rtt_us + 100_000),
    lambda view: replace(view, queued_count=view.queued_count + 50),
    lambda view: replace(view, state=InstanceState.SUSPECT),
    lambda view: replace(view, state=InstanceState.EJECTED),
    lambda view: replace(view, models=()),
]


@property_test
@given(mild_requests, lively_worlds, policies, mild_budgets, st.sampled_from(_WORSE))
def test_an_inferior_candidate_never_changes_the_winner(
    request: RequestFeatures,
    world: World,
    policy: Policy,
    budget_nano_usd: int | None,
    worsen: Callable[[InstanceView], InstanceView],
) -> None:
    before = decide(request, world, policy, budget_nano_usd).chosen
    assume(before is not None)
    assert before is not None
    worse = replace(worsen(before.instance), instance_id="z-last")
    # As busy as the one it copies, or it would win a tie.
    busy = world.in_flight.get(before.instance.instance_id, 0)
    more = world._replace(
        instances=(*world.instances, worse),
        in_flight={**world.in_flight, "z-last": busy},
    )
    assert name_of(decide(request, more, policy, budget_nano_usd).chosen) == name_of(before)


@property_test
@given(easy_requests, lively_worlds, policies, st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_higher_price_ceiling_never_shuts_anyone_out(
    request: RequestFeatures, world: World, policy: Policy, ceiling: int, more: int
) -> None:
    def open_at(limit: int) -> set[tuple[str, str] | None]:
        wish = request._replace(limits=Limits(max_cost_nano_usd=limit))
        return {name_of(c) for c in assess(wish, world) if c.rejection is None}

    assert open_at(ceiling) <= open_at(ceiling + more)
    low = decide(request._replace(limits=Limits(max_cost_nano_usd=ceiling)), world, policy)
    high = decide(
        request._replace(limits=Limits(max_cost_nano_usd=ceiling + more)), world, policy
    )
    if low.chosen is not None and low.chosen.instance.state is InstanceState.READY:
        assert high.chosen is not None
        assert high.chosen.objective_nano_usd <= low.chosen.objective_nano_usd


@property_test
@given(requests, worlds, policies, st.integers(0, 10**8))
def test_a_budget_removes_exactly_what_is_estimated_above_it(
    request: RequestFeatures, world: World, policy: Policy, budget_nano_usd: int
) -> None:
    free = assess(request, world)
    tight = assess(request, world)
    choose(tight, policy, world, budget_nano_usd=budget_nano_usd)
    for before, after in zip(free, tight, strict=True):
        if before.rejection is not None:
            assert after.rejection is before.rejection
        else:
            too_dear = before.estimated_nano_usd > budget_nano_usd
            assert (after.rejection is Rejection.BUDGET) is too_dear


@property_test
@given(requests, worlds)
def test_what_no_price_is_known_for_is_never_open(
    request: RequestFeatures, world: World
) -> None:
    bare = world._replace(book=PriceBook.parse({"version": "bare"}))
    candidates = assess(request, bare)
    assert all(candidate.rejection is not None for candidate in candidates)
    assert bounds(candidates) is None
    assert choose(candidates, BUILT_IN["cheapest"], bare, budget_nano_usd=None).chosen is None


@property_test
@given(requests, worlds)
def test_amounts_to_hold_span_what_is_open(request: RequestFeatures, world: World) -> None:
    candidates = assess(request, world)
    amounts = bounds(candidates)
    open_ones = [candidate for candidate in candidates if candidate.rejection is None]
    assert (amounts is None) is (not open_ones)
    for candidate in open_ones:
        assert amounts is not None
        assert amounts[0] <= candidate.estimated_nano_usd
        assert candidate.estimated_nano_usd <= candidate.worst_case_nano_usd <= amounts[1]
        assert candidate.estimated_nano_usd == sum_lines(candidate.lines)
