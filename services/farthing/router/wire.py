"""Between the router's values and its proto messages."""

from __future__ import annotations

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.instances.view import InstanceState
from farthing.pricing import CostLine
from farthing.pricing.wire import encode_line
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision

TIER = {
    "edge": common_pb2.TIER_EDGE,
    "cloud": common_pb2.TIER_CLOUD,
    "cache": common_pb2.TIER_CACHE,
}
REASON_NAME = {
    number: name.removeprefix("FINISH_REASON_").lower()
    for name, number in common_pb2.FinishReason.items()
}
STATE = {
    InstanceState.READY: router_pb2.INSTANCE_STATE_READY,
    InstanceState.SUSPECT: router_pb2.INSTANCE_STATE_SUSPECT,
    InstanceState.EJECTED: router_pb2.INSTANCE_STATE_EJECTED,
    InstanceState.CONNECTING: router_pb2.INSTANCE_STATE_CONNECTING,
}
_REJECTION: dict[Rejection, router_pb2.RejectReason] = {
    reason: getattr(router_pb2, f"REJECT_REASON_{reason.name}") for reason in Rejection
}


def encode_decision(
    decision: Decision, decision_id: str, hold_nano_usd: int
) -> router_pb2.Decision:
    """A decision over instances."""
    message = router_pb2.Decision(
        decision_id=decision_id,
        rejected=[encode_candidate(candidate) for candidate in decision.rejected],
        policy=decision.policy,
        price_version=decision.price_version,
        reason=decision.reason,
        hold_nano_usd=hold_nano_usd,
    )
    if decision.chosen is not None:
        message.chosen.CopyFrom(encode_candidate(decision.chosen))
    return message


def encode_cache_decision(
    decision: Decision,
    decision_id: str,
    hold_nano_usd: int,
    *,
    model: str,
    region: str,
    lines: tuple[CostLine, ...],
    cost_nano_usd: int,
) -> router_pb2.Decision:
    """A decision that the cache answered; `decision` is what would have been chosen without it."""
    message = encode_decision(decision, decision_id, hold_nano_usd)
    would_be = router_pb2.Candidate()
    if decision.chosen is not None:
        would_be.CopyFrom(message.chosen)
        would_be.reject_reason = router_pb2.REJECT_REASON_COST
        would_be.reason = "the cache had the answer"
        others = list(message.rejected)
        del message.rejected[:]
        message.rejected.extend([would_be, *others])
    message.chosen.CopyFrom(
        router_pb2.Candidate(
            model=model,
            tier=common_pb2.TIER_CACHE,
            region=region,
            cost_lines=[encode_line(line) for line in lines],
            estimated_nano_usd=cost_nano_usd,
            worst_case_nano_usd=cost_nano_usd,
            quality_ratio=would_be.quality_ratio,
        )
    )
    message.reason = f"the cache had this answer, made by {model}"
    return message


def encode_candidate(candidate: Candidate) -> router_pb2.Candidate:
    """One way to answer."""
    instance = candidate.instance
    message = router_pb2.Candidate(
        instance_id=instance.instance_id,
        model=candidate.model.name,
        tier=TIER.get(instance.tier, common_pb2.TIER_UNSPECIFIED),
        region=instance.region,
        cost_lines=[encode_line(line) for line in candidate.lines],
        estimated_nano_usd=candidate.estimated_nano_usd,
        worst_case_nano_usd=candidate.worst_case_nano_usd,
        first_token_ms=candidate.first_token_ms,
        total_ms=candidate.total_ms,
        quality_ratio=candidate.quality_ratio,
        objective_nano_usd=candidate.objective_nano_usd,
        reason=candidate.detail,
    )
    if candidate.rejection is not None:
        message.reject_reason = _REJECTION[candidate.rejection]
    return message
