"""Routing policies: what a second of waiting, a wrong answer and a kilogram of CO2e are worth to a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Policy:
    """Weights of the objective, all in money, so that they add up with cost.

    objective = cost + latency_nano_usd_per_s x seconds + (1 - quality) x wrong_answer_nano_usd + carbon x its price
    """

    name: str
    latency_nano_usd_per_s: int = 0
    wrong_answer_nano_usd: int = 0
    carbon_nano_usd_per_kg: int = 0


# Starting points, not measurements: each makes its name true on price lists of 2026 and an operator replaces it by a
# document policies/<name>. For scale: 1_000_000 nano-USD is a tenth of a cent.
BUILT_IN: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("cheapest"),
        Policy("balanced", latency_nano_usd_per_s=2_000, wrong_answer_nano_usd=200_000),
        Policy("fastest", latency_nano_usd_per_s=10_000_000, wrong_answer_nano_usd=200_000),
        Policy(
            "greenest",
            latency_nano_usd_per_s=500,
            wrong_answer_nano_usd=50_000,
            carbon_nano_usd_per_kg=100_000_000_000_000,
        ),
        Policy("best", latency_nano_usd_per_s=1_000, wrong_answer_nano_usd=1_000_000_000),
    )
}


def parse_policy(name: str, document: Mapping[str, Any]) -> Policy:
    """Read a policy document; ValueError names what is wrong in it."""
    weights: dict[str, int] = {}
    for key, value in document.items():
        if key not in (
            "latency_nano_usd_per_s",
            "wrong_answer_nano_usd",
            "carbon_nano_usd_per_kg",
        ):
            raise ValueError(f"policies/{name}: unknown weight {key!r}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"policies/{name}: {key} must be a whole number >= 0")
        weights[key] = value
    return Policy(name, **weights)
