"""The decision: hard limits remove candidates, one objective in money ranks the rest, ties go to the least loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from farthing.clients.instances.view import InstanceState, InstanceView, ModelView
from farthing.kit.money import format_usd
from farthing.pricing import PriceBook
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.estimate import fill_estimates
from farthing.router.core.policy import Policy
from farthing.router.core.request import Limits, Privacy, RequestFeatures

_NG_PER_KG = 1_000_000_000_000
_NOTHING_KNOWN: Mapping[str, int] = MappingProxyType({})


class World(NamedTuple):
    """Everything outside the request that a decision looks at."""

    region: str
    instances: tuple[InstanceView, ...]
    book: PriceBook
    in_flight: Mapping[str, int] = _NOTHING_KNOWN
    typical_output_tokens: Mapping[str, float] = _NOTHING_KNOWN


class Decision(NamedTuple):
    """The winner, or None, and every other candidate with its reason, cheapest first."""

    chosen: Candidate | None
    rejected: tuple[Candidate, ...]
    policy: str
    price_version: str
    reason: str


def assess(request: RequestFeatures, world: World) -> list[Candidate]:
    """Every (instance, model) with its estimates; those that break a hard limit carry the reason."""
    return [
        _assess_one(request, world, instance, model)
        for instance in world.instances
        for model in instance.models
    ]


def bounds(candidates: Iterable[Candidate]) -> tuple[int, int] | None:
    """Least useful and greatest amount to hold for these candidates, nano-USD; None when none can win."""
    open_ones = [candidate for candidate in candidates if candidate.rejection is None]
    if not open_ones:
        return None
    return (
        min(candidate.estimated_nano_usd for candidate in open_ones),
        max(candidate.worst_case_nano_usd for candidate in open_ones),
    )


def choose(
    candidates: list[Candidate],
    policy: Policy,
    world: World,
    *,
    budget_nano_usd: int | None,
) -> Decision:
    """Pick among assessed candidates what the policy values most and the budget covers (None: not yet known)."""
    qualified: list[Candidate] = []
    for candidate in candidates:
        candidate.objective_nano_usd = _objective(candidate, policy)
        if budget_nano_usd is not None and candidate.estimated_nano_usd > budget_nano_usd:
            candidate.reject(
                Rejection.BUDGET,
                f"estimated {format_usd(candidate.estimated_nano_usd)}, budget grants "
                f"{format_usd(budget_nano_usd)}",
            )
        if candidate.rejection is None:
            qualified.append(candidate)
    if len(qualified) > 1:
        qualified.sort(key=lambda candidate: _rank(candidate, world))
    chosen, *runners_up = qualified or (None,)
    for loser in runners_up:
        assert chosen is not None
        loser.reject(
            Rejection.COST,
            f"objective {format_usd(loser.objective_nano_usd)} against "
            f"{format_usd(chosen.objective_nano_usd)}",
        )
    rejected = [candidate for candidate in candidates if candidate is not chosen]
    rejected.sort(key=_cost_of)
    return Decision(
        chosen,
        tuple(rejected),
        policy.name,
        world.book.version,
        _explain(chosen, runners_up, policy, len(candidates)),
    )


def _rank(candidate: Candidate, world: World) -> tuple[bool, int, int, str]:
    instance = candidate.instance
    load = instance.running_count + instance.queued_count
    return (
        instance.state is InstanceState.SUSPECT,
        candidate.objective_nano_usd,
        max(load, world.in_flight.get(instance.instance_id, 0)),
        instance.instance_id,
    )


def _cost_of(candidate: Candidate) -> int:
    return candidate.estimated_nano_usd


def _assess_one(
    request: RequestFeatures, world: World, instance: InstanceView, model: ModelView
) -> Candidate:
    candidate, limits = Candidate(instance, model), request.limits
    if request.model and request.model != model.name:
        candidate.reject(Rejection.MODEL, f"the request names {request.model}")
    if instance.state in (InstanceState.EJECTED, InstanceState.CONNECTING):
        candidate.reject(Rejection.UNHEALTHY, f"the instance is {instance.state.value}")
    _check_place(candidate, limits, world.region)
    missing = request.needs - model.capabilities
    if missing:
        candidate.reject(Rejection.CAPABILITY, f"lacks {', '.join(sorted(missing))}")
    deployment = world.book.deployment(instance.tier, instance.region, model.name)
    uplink = world.book.link_nano_usd_per_gb(world.region, instance.region)
    downlink = world.book.link_nano_usd_per_gb(instance.region, world.region)
    if deployment is None or uplink is None or downlink is None:
        missing_price = "a deployment" if deployment is None else "the link"
        return candidate.reject(
            Rejection.UNPRICED,
            f"price book {world.book.version} has no price for {missing_price} "
            f"{instance.tier}/{instance.region}/{model.name}",
        )
    candidate.uplink_nano_usd_per_gb, candidate.downlink_nano_usd_per_gb = uplink, downlink
    fill_estimates(
        candidate,
        deployment,
        request,
        in_flight_count=world.in_flight.get(instance.instance_id, 0),
        typical_output_tokens=world.typical_output_tokens,
    )
    _check_size(candidate)
    _check_limits(candidate, limits)
    return candidate


def _check_place(candidate: Candidate, limits: Limits, region: str) -> None:
    instance = candidate.instance
    if limits.residency and instance.region not in limits.residency:
        candidate.reject(
            Rejection.RESIDENCY,
            f"{instance.region} is not in {', '.join(sorted(limits.residency))}",
        )
    if limits.privacy is not Privacy.ANY and instance.region != region:
        candidate.reject(
            Rejection.PRIVACY, f"{limits.privacy.value}: the prompt must stay in {region}"
        )
    if limits.privacy is Privacy.EDGE_ONLY and instance.tier != "edge":
        candidate.reject(Rejection.PRIVACY, "edge_only: not an edge instance")


def _check_size(candidate: Candidate) -> None:
    # The estimate, not the bound, decides: bytes are several times the tokens. The engine refuses what still does
    # not fit, before any work, and the request goes on to the next candidate.
    prompt, context = candidate.input_token_count, candidate.model.context_length
    if context and prompt >= context:
        candidate.reject(
            Rejection.CONTEXT_LENGTH, f"about {prompt} prompt tokens in a context of {context}"
        )


def _check_limits(candidate: Candidate, limits: Limits) -> None:
    if candidate.quality_ratio < limits.min_quality_ratio:
        candidate.reject(
            Rejection.QUALITY,
            f"quality {candidate.quality_ratio:.3f} below {limits.min_quality_ratio:.3f}",
        )
    if limits.max_first_token_ms and candidate.first_token_ms > limits.max_first_token_ms:
        candidate.reject(
            Rejection.LATENCY,
            f"first token after {candidate.first_token_ms} ms, limit {limits.max_first_token_ms} ms",
        )
    if limits.max_total_ms and candidate.total_ms > limits.max_total_ms:
        candidate.reject(
            Rejection.LATENCY,
            f"whole answer after {candidate.total_ms} ms, limit {limits.max_total_ms} ms",
        )
    if limits.max_cost_nano_usd and candidate.estimated_nano_usd > limits.max_cost_nano_usd:
        candidate.reject(
            Rejection.PRICE_CEILING,
            f"estimated {format_usd(candidate.estimated_nano_usd)}, limit "
            f"{format_usd(limits.max_cost_nano_usd)}",
        )


def _objective(candidate: Candidate, policy: Policy) -> int:
    wrong = round((1.0 - candidate.quality_ratio) * policy.wrong_answer_nano_usd)
    waiting = candidate.total_ms * policy.latency_nano_usd_per_s // 1000
    carbon = candidate.carbon_ng * policy.carbon_nano_usd_per_kg // _NG_PER_KG
    return candidate.estimated_nano_usd + waiting + wrong + carbon


def _explain(
    chosen: Candidate | None, runners_up: Sequence[Candidate], policy: Policy, total_count: int
) -> str:
    if chosen is None:
        return f"none of {total_count} candidates qualified"
    said = (
        f"{chosen.model.name} in {chosen.instance.region} ({chosen.instance.tier}): estimated "
        f"{format_usd(chosen.estimated_nano_usd)}, {chosen.total_ms} ms, quality "
        f"{chosen.quality_ratio:.2f}; objective {format_usd(chosen.objective_nano_usd)}"
    )
    if not runners_up:
        return f"{said}; the only one of {total_count} candidates that qualified"
    next_best = runners_up[0]
    return (
        f"{said}, lowest under policy {policy.name}; next {next_best.model.name} in "
        f"{next_best.instance.region} with {format_usd(next_best.objective_nano_usd)}"
    )
