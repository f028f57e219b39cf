"""Why a request is not answered, as its caller sees it."""

from __future__ import annotations

from farthing.clients.quota import DenialReason, Denied
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from farthing.router.core.candidate import Candidate, Rejection

# Reasons that time cures, and the one that leaves a candidate out of the question.
_PASSING = (Rejection.UNHEALTHY, Rejection.FAILED, Rejection.MODEL)


def no_candidate(candidates: list[Candidate], model: str) -> FarthingError:
    """Nothing qualified; says for each candidate why. A budget that would have made the difference is named as such."""
    known = sorted({candidate.model.name for candidate in candidates})
    if model and model not in known:
        return NotFound(
            f"model {model!r} is not served here; use auto or one of: {', '.join(known) or 'none yet'}",
            reason="MODEL_NOT_FOUND",
            metadata={"model": model},
        )
    reasons = {
        f"{candidate.model.name}@{candidate.instance.instance_id}": candidate.detail
        for candidate in candidates
    }
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if any(candidate.rejection is Rejection.BUDGET for candidate in candidates):
        return ResourceExhausted(
            f"the budget has too little left for this request: {listed}; raise it with `farthing budget set`",
            reason="BUDGET_EXHAUSTED",
            metadata=reasons,
        )
    if all(candidate.rejection in _PASSING for candidate in candidates):
        return Unavailable(
            f"no instance is ready to answer: {listed or 'none is known yet'}; try again",
            reason="NO_INSTANCE_READY",
            metadata=reasons,
            retry_after_ms=1_000,
        )
    return FailedPrecondition(
        f"no instance can answer this request: {listed or 'none is known'}",
        reason="NO_CANDIDATE",
        metadata=reasons,
    )


def denial_error(denied: Denied) -> FarthingError:
    """A refused reservation as the caller sees it."""
    metadata = {"node": denied.node} if denied.node else {}
    if denied.reason in (DenialReason.KEY_UNKNOWN, DenialReason.KEY_INACTIVE):
        return Unauthenticated(denied.message, reason=denied.reason.value, metadata=metadata)
    reason = "BUDGET_EXHAUSTED" if denied.reason is DenialReason.BUDGET else denied.reason.value
    return ResourceExhausted(
        denied.message, reason=reason, metadata=metadata, retry_after_ms=denied.retry_after_ms
    )


def key_error() -> Unauthenticated:
    """The key does not work."""
    return Unauthenticated(
        "the API key is unknown, revoked or expired; `farthing keys create` makes one",
        reason="KEY_INVALID",
    )
