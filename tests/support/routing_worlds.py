"""Requests, worlds and prices drawn at random: what properties of the routing core are tried on."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from farthing.clients.instances.view import InstanceState, InstanceView, ModelView
from farthing.pricing import PriceBook
from farthing.router.core.candidate import Candidate
from farthing.router.core.decide import Decision, World, assess, choose
from farthing.router.core.policy import BUILT_IN, Policy
from farthing.router.core.request import Limits, Privacy, RequestFeatures

REGIONS = ("edge-site", "cloud-a", "cloud-b")
HERE = "edge-site"
_SOME_TOKENS = {"input_nano_usd_per_million": 7, "output_nano_usd_per_million": 60_000_000}
CAPABILITIES = ("chat", "json_schema", "logprobs")
ANY_LIMITS = Limits()
# Worlds in which nobody qualifies are drawn again, and there are unlucky rows of them.
property_test = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)

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
    lambda request: request._replace(model="", needs=frozenset(), limits=ANY_LIMITS)
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
    lambda request, limits, needs: request._replace(limits=limits, needs=needs),
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
