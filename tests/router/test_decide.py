"""The decision: hard limits hold, the least objective wins, every loser knows why, and a hold covers what it buys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from farthing.clients.instances.view import InstanceState, InstanceView, ModelView
from farthing.pricing import PriceBook, price_usage, sum_lines
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision, World, assess, bounds, choose
from farthing.router.core.estimate import limits_within, quality_of
from farthing.router.core.policy import BUILT_IN, Policy, parse_policy
from farthing.router.core.request import Limits, Privacy, RequestFeatures

REGIONS = ("edge-site", "cloud-a", "cloud-b")
HERE = "edge-site"
_SOME_TOKENS = {"input_nano_usd_per_million": 7, "output_nano_usd_per_million": 60_000_000}
CAPABILITIES = ("chat", "json_schema", "logprobs")
ANY_LIMITS = Limits()
property_test = settings(max_examples=60, deadline=None)

models = st.builds(
    ModelView,
    name=st.sampled_from(["small", "large"]),
    context_length=st.sampled_from([0, 64, 1024, 100_000]),
    capabilities=st.frozensets(st.sampled_from(CAPABILITIES)),
    qualities=st.dictionaries(
        st.sampled_from(["", "math", "math/hard"]), st.floats(0, 1), max_size=3
    ),
    bytes_per_token=st.just(0.0) | st.floats(0.5, 8),
    prefill_tokens_per_second=st.just(0.0) | st.floats(1, 1e5),
    decode_tokens_per_second=st.just(0.0) | st.floats(0.5, 1e3),
)
states = st.sampled_from([InstanceState.READY] * 4 + list(InstanceState))
instance_drafts = st.builds(
    InstanceView,
    instance_id=st.just(""),
    tier=st.sampled_from(["edge", "cloud"]),
    region=st.sampled_from(REGIONS),
    state=states,
    models=st.lists(models, max_size=2, unique_by=lambda model: model.name).map(tuple),
    running_count=st.integers(0, 20),
    queued_count=st.integers(0, 20),
    capacity_count=st.integers(1, 16),
    rtt_us=st.integers(0, 500_000),
)
instances = st.lists(instance_drafts, max_size=5).map(
    lambda drafts: tuple(
        replace(draft, instance_id=f"i-{number}") for number, draft in enumerate(drafts)
    )
)
compute_prices = st.fixed_dictionaries(
    {
        "nano_usd_per_hour": st.integers(0, 10**11),
        "utilisation_percent": st.integers(1, 100),
    }
)
energy_prices = st.fixed_dictionaries(
    {"power_mw": st.integers(0, 10**6), "nano_usd_per_kwh": st.integers(0, 10**9)}
)
token_prices = st.fixed_dictionaries(
    {
        "input_nano_usd_per_million": st.integers(0, 10**10),
        "output_nano_usd_per_million": st.integers(0, 10**11),
    }
)
rules = st.fixed_dictionaries(
    {"compute": compute_prices},
    optional={
        "tier": st.sampled_from(["edge", "cloud"]),
        "region": st.sampled_from(REGIONS),
        "energy": energy_prices,
        "tokens": token_prices,
        "carbon": st.fixed_dictionaries({"mg_per_kwh": st.integers(0, 10**6)}),
    },
)
links = st.fixed_dictionaries(
    {"nano_usd_per_gb": st.integers(0, 10**9)},
    optional={"from": st.sampled_from(REGIONS), "to": st.sampled_from(REGIONS)},
)
wild_books = st.builds(
    lambda deployments, ways: PriceBook.parse(
        {"version": "1", "deployments": deployments, "links": ways}
    ),
    st.lists(rules, max_size=3),
    st.lists(links, max_size=3),
)
around = {
    "region": st.just(HERE),
    "in_flight": st.dictionaries(
        st.sampled_from(["i-0", "i-1", "i-2"]), st.integers(1, 30), max_size=2
    ),
    "typical_output_tokens": st.dictionaries(
        st.sampled_from(["", "math"]), st.floats(0, 2000), max_size=2
    ),
}
worlds = st.builds(World, instances=instances, book=wild_books, **around)
# Everything is priced and the first instance could answer any request that asks for nothing special.
lively_worlds = st.builds(
    World,
    instances=st.builds(
        lambda first, model, others: (
            replace(first, instance_id="i", models=(replace(model, context_length=0),)),
            *others,
        ),
        instance_drafts.map(lambda draft: replace(draft, state=InstanceState.READY)),
        models,
        instances,
    ),
    book=st.builds(
        lambda rule, link: PriceBook.parse(
            {
                "version": "1",
                "deployments": [rule, {"tokens": _SOME_TOKENS}],
                "links": [link, {"nano_usd_per_gb": 90_000_000}],
            }
        ),
        rules,
        links,
    ),
    **around,
)
limits = st.builds(
    Limits,
    max_cost_nano_usd=st.just(0) | st.integers(1, 10**9),
    max_first_token_ms=st.just(0) | st.integers(1, 10**5),
    max_total_ms=st.just(0) | st.integers(1, 10**6),
    min_quality_ratio=st.just(0.0) | st.floats(0, 1),
    residency=st.just(frozenset()) | st.frozensets(st.sampled_from(REGIONS)),
    privacy=st.sampled_from(Privacy),
)
requests = st.builds(
    RequestFeatures,
    input_bytes=st.integers(0, 50_000),
    message_count=st.integers(0, 20),
    max_tokens=st.integers(1, 4096),
    model=st.sampled_from(["", "", "small", "nobody"]),
    task=st.sampled_from(["", "math", "math/hard", "poetry"]),
    needs=st.frozensets(st.sampled_from(CAPABILITIES), max_size=1),
    limits=limits,
)
easy_requests = requests.map(
    lambda request: replace(request, model="", needs=frozenset(), limits=ANY_LIMITS)
)
# Limits that bite now and then, so that there mostly is a winner.
mild_limits = st.just(ANY_LIMITS) | st.one_of(
    st.builds(Limits, max_cost_nano_usd=st.integers(10**5, 10**10)),
    st.builds(Limits, max_first_token_ms=st.integers(100, 10**6)),
    st.builds(Limits, max_total_ms=st.integers(1000, 10**7)),
    st.builds(Limits, min_quality_ratio=st.floats(0, 0.7)),
    st.builds(Limits, residency=st.frozensets(st.sampled_from(REGIONS), min_size=1)),
    st.builds(Limits, privacy=st.sampled_from(Privacy)),
)
mild_requests = st.builds(
    lambda request, limits, needs: replace(request, limits=limits, needs=needs),
    easy_requests,
    mild_limits,
    st.just(frozenset[str]()) | st.frozensets(st.sampled_from(CAPABILITIES), max_size=1),
)
policies = st.sampled_from(list(BUILT_IN.values())) | st.builds(
    Policy,
    name=st.just("own"),
    latency_nano_usd_per_s=st.integers(0, 10**9),
    wrong_answer_nano_usd=st.integers(0, 10**9),
    carbon_nano_usd_per_kg=st.integers(0, 10**15),
)
budgets = st.none() | st.integers(0, 10**9)
mild_budgets = st.none() | st.integers(10**6, 10**11)


def decide(
    request: RequestFeatures, world: World, policy: Policy, budget_nano_usd: int | None = None
) -> Decision:
    return choose(assess(request, world), policy, world, budget_nano_usd=budget_nano_usd)


def name_of(candidate: Candidate | None) -> tuple[str, str] | None:
    return None if candidate is None else (candidate.instance.instance_id, candidate.model.name)


def load_of(candidate: Candidate, world: World) -> int:
    instance = candidate.instance
    return max(
        instance.running_count + instance.queued_count,
        world.in_flight.get(instance.instance_id, 0),
    )


# -- who wins --------------------------------------------------------------------------------


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
    turned = replace(world, instances=world.instances[::-1])
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
    more = replace(
        world,
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
        wish = replace(request, limits=Limits(max_cost_nano_usd=limit))
        return {name_of(c) for c in assess(wish, world) if c.rejection is None}

    assert open_at(ceiling) <= open_at(ceiling + more)
    low = decide(replace(request, limits=Limits(max_cost_nano_usd=ceiling)), world, policy)
    high = decide(
        replace(request, limits=Limits(max_cost_nano_usd=ceiling + more)), world, policy
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
    bare = replace(world, book=PriceBook.parse({"version": "bare"}))
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


# -- estimates -------------------------------------------------------------------------------


def first(request: RequestFeatures, world: World) -> Candidate:
    """The first candidate of a lively world, which is priced and open."""
    return assess(request, world)[0]


_FIGURES = (
    "input_token_count",
    "estimated_nano_usd",
    "worst_case_nano_usd",
    "first_token_ms",
    "total_ms",
    "carbon_ng",
)


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 10_000))
def test_a_longer_prompt_is_never_estimated_lower(
    request: RequestFeatures, world: World, more: int
) -> None:
    short = first(request, world)
    long = first(replace(request, input_bytes=request.input_bytes + more), world)
    for name in _FIGURES:
        assert getattr(short, name) <= getattr(long, name), name


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 4096))
def test_a_longer_answer_is_never_estimated_lower(
    request: RequestFeatures, world: World, more: int
) -> None:
    short = first(request, world)
    long = first(replace(request, max_tokens=request.max_tokens + more), world)
    for name in _FIGURES:
        assert getattr(short, name) <= getattr(long, name), name


@property_test
@given(easy_requests, lively_worlds, st.integers(1, 100))
def test_a_busier_instance_is_never_estimated_faster(
    request: RequestFeatures, world: World, more: int
) -> None:
    idle = first(request, world)
    queued = replace(idle.instance, queued_count=idle.instance.queued_count + more)
    busier = replace(
        world,
        instances=tuple(queued if view is idle.instance else view for view in world.instances),
    )
    busy = first(request, busier)
    assert idle.first_token_ms <= busy.first_token_ms
    assert idle.total_ms <= busy.total_ms
    assert idle.estimated_nano_usd == busy.estimated_nano_usd


def test_quality_is_the_tasks_then_its_parents_then_overall_then_a_guess() -> None:
    known = {"math/hard": 0.3, "math": 0.6, "": 0.8}
    assert quality_of(known, "math/hard") == 0.3
    assert quality_of(known, "math/hard/geometry") == 0.3
    assert quality_of(known, "math/easy") == 0.6
    assert quality_of(known, "poetry") == 0.8
    assert quality_of(known, "") == 0.8
    assert quality_of({"math": 0.6}, "poetry") == 0.5


# -- what a hold buys ------------------------------------------------------------------------


def worst_price(candidate: Candidate, token_count: int, compute_us: int) -> int:
    """What it costs when every byte is a token and every token 64 bytes."""
    assert candidate.deployment is not None
    usage = replace(
        candidate.worst_usage,
        output_token_count=token_count,
        response_bytes=64 * token_count,
        compute_us=compute_us,
    )
    lines = price_usage(
        candidate.deployment,
        usage,
        uplink_nano_usd_per_gb=candidate.uplink_nano_usd_per_gb,
        downlink_nano_usd_per_gb=candidate.downlink_nano_usd_per_gb,
    )
    return sum_lines(lines)


@property_test
@given(easy_requests, lively_worlds, st.integers(0, 1100))
def test_what_a_hold_allows_never_costs_more_than_the_hold(
    request: RequestFeatures, world: World, permille: int
) -> None:
    candidate = first(request, world)
    hold = candidate.worst_case_nano_usd * permille // 1000
    limits = limits_within(candidate, hold)
    assert 1 <= limits.compute_us <= candidate.worst_usage.compute_us
    assert 1 <= limits.max_tokens <= request.max_tokens
    if worst_price(candidate, limits.max_tokens, limits.compute_us) > hold:
        # Not even one token at the speed measured: nothing could have been kept to.
        usage = candidate.estimated_usage
        token_us = -(-usage.decode_us // usage.output_token_count)
        least_us = min(usage.prefill_us + token_us, candidate.worst_usage.compute_us)
        assert limits.max_tokens == 1
        assert worst_price(candidate, 1, least_us) > hold


@property_test
@given(easy_requests, lively_worlds, st.integers(0, 1100), st.integers(0, 1100))
def test_a_greater_hold_never_buys_a_shorter_answer(
    request: RequestFeatures, world: World, permille: int, more: int
) -> None:
    candidate = first(request, world)
    worst = candidate.worst_case_nano_usd
    small = limits_within(candidate, worst * permille // 1000)
    great = limits_within(candidate, worst * (permille + more) // 1000)
    assert small.max_tokens <= great.max_tokens


@property_test
@given(easy_requests, lively_worlds)
def test_a_full_hold_buys_the_whole_answer(request: RequestFeatures, world: World) -> None:
    candidate = first(request, world)
    limits = limits_within(candidate, candidate.worst_case_nano_usd)
    assert limits.compute_us == candidate.worst_usage.compute_us
    assert limits.max_tokens == request.max_tokens
    assert (
        worst_price(candidate, limits.max_tokens, limits.compute_us)
        <= candidate.worst_case_nano_usd
    )


DEMO = {
    "version": "demo",
    "deployments": [{"compute": {"nano_usd_per_hour": 804_800_000}}],
    "links": [{"from": "cloud-a", "nano_usd_per_gb": 90_000_000}, {"nano_usd_per_gb": 0}],
}
LISTED = {
    "version": "listed",
    "deployments": [
        {
            "tokens": {
                "input_nano_usd_per_million": 150_000_000,
                "output_nano_usd_per_million": 600_000_000,
            }
        }
    ],
    "links": [{"nano_usd_per_gb": 0}],
}


def one_cloud(book: dict[str, Any]) -> World:
    instance = InstanceView("c", "cloud", "cloud-a", models=(ModelView("large"),))
    return World(HERE, (instance,), PriceBook.parse(book))


def test_a_hold_of_the_estimate_buys_about_the_answer_that_was_estimated() -> None:
    request = RequestFeatures(input_bytes=400, message_count=1, max_tokens=2000)
    candidate = first(request, one_cloud(DEMO))
    expected = candidate.estimated_usage
    limits = limits_within(candidate, candidate.estimated_nano_usd)
    assert 0.9 * expected.output_token_count <= limits.max_tokens
    assert 0.9 * expected.compute_us <= limits.compute_us <= expected.compute_us


def test_a_model_that_is_paid_by_the_token_is_held_to_tokens() -> None:
    request = RequestFeatures(input_bytes=1000, message_count=0, max_tokens=100_000)
    candidate = first(request, one_cloud(LISTED))
    # 1000 bytes are at most 1000 tokens: 150_000 nano-USD; each token of answer costs 600 more.
    assert limits_within(candidate, 150_000 + 600 * 50).max_tokens == 50
    assert limits_within(candidate, 150_000 + 600 * 50 - 1).max_tokens == 49
    assert limits_within(candidate, 1).max_tokens == 1


# -- policies --------------------------------------------------------------------------------


def test_a_policy_document_sets_weights_and_leaves_the_rest_at_nothing() -> None:
    policy = parse_policy("night", {"latency_nano_usd_per_s": 5})
    assert policy == Policy("night", latency_nano_usd_per_s=5)


@pytest.mark.parametrize("bad", [-1, 1.5, "5", True, None])
def test_a_weight_that_is_no_amount_is_refused_by_name(bad: Any) -> None:
    with pytest.raises(ValueError, match="policies/night: wrong_answer_nano_usd"):
        parse_policy("night", {"wrong_answer_nano_usd": bad})


def test_an_unknown_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="policies/night: unknown weight 'speed'"):
        parse_policy("night", {"speed": 1})


@property_test
@given(easy_requests, lively_worlds)
def test_the_built_in_policies_do_as_they_are_called(
    request: RequestFeatures, world: World
) -> None:
    ready = replace(
        world, instances=tuple(v for v in world.instances if v.state is InstanceState.READY)
    )
    cheapest = decide(request, ready, BUILT_IN["cheapest"]).chosen
    assume(cheapest is not None)
    assert cheapest is not None
    open_ones = [c for c in assess(request, ready) if c.rejection is None]
    assert cheapest.estimated_nano_usd == min(c.estimated_nano_usd for c in open_ones)
