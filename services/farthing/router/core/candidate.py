"""One way to answer a request, with its estimates, its price and, if it cannot win, the reason."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from farthing.clients.instances.view import InstanceView, ModelView
from farthing.pricing import CostLine, Deployment, Usage

_NOTHING = Usage()


class Rejection(enum.Enum):
    """Why a candidate lost; values as in router.proto."""

    COST = "cost"
    RESIDENCY = "residency"
    PRIVACY = "privacy"
    CONTEXT_LENGTH = "context_length"
    CAPABILITY = "capability"
    LATENCY = "latency"
    PRICE_CEILING = "price_ceiling"
    QUALITY = "quality"
    BUDGET = "budget"
    UNPRICED = "unpriced"
    UNHEALTHY = "unhealthy"
    MODEL = "model"
    FAILED = "failed"


@dataclass(slots=True)
class Candidate:
    """Estimates are made before the call; money in nano-USD, time in milliseconds.

    `worst_case_nano_usd` is what the hold must cover so that the answer is not cut before max_tokens.
    """

    instance: InstanceView
    model: ModelView
    deployment: Deployment | None = None
    uplink_nano_usd_per_gb: int = 0
    downlink_nano_usd_per_gb: int = 0
    input_token_count: int = 0
    lines: tuple[CostLine, ...] = ()
    estimated_nano_usd: int = 0
    worst_case_nano_usd: int = 0
    estimated_usage: Usage = _NOTHING
    worst_usage: Usage = _NOTHING
    first_token_ms: int = 0
    total_ms: int = 0
    quality_ratio: float = 0.0
    carbon_ng: int = 0
    objective_nano_usd: int = 0
    rejection: Rejection | None = None
    detail: str = ""

    def reject(self, rejection: Rejection, detail: str) -> Candidate:
        """Mark as lost; the first reason stands."""
        if self.rejection is None:
            self.rejection, self.detail = rejection, detail
        return self
