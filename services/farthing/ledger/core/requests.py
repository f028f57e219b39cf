"""Requests as the sum of their attempts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from farthing.ledger.core.charges import Charge, FinishReason, Tier


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """One request: what all its attempts cost, and where the one that answered ran."""

    request_id: str
    trace_id: str
    organisation_id: str
    team_id: str
    model: str
    tier: Tier
    region: str
    task: str
    finish_reason: FinishReason
    time_ns: int
    total_nano_usd: int
    waste_nano_usd: int
    input_token_count: int
    output_token_count: int
    attempt_count: int
    unpriced: bool


def summarise_requests(charges: Iterable[Charge]) -> tuple[RequestSummary, ...]:
    """Requests of the charges, newest first. The attempt shown is the last one that was of use,
    or the last one if none was. Two organisations never share a row, whatever id they chose."""
    groups: dict[tuple[str, str], list[Charge]] = {}
    for charge in charges:
        groups.setdefault((charge.organisation_id, charge.request_id), []).append(charge)
    summaries = [_summarise(group) for group in groups.values()]
    return tuple(sorted(summaries, key=lambda row: (-row.time_ns, row.request_id)))


def _summarise(charges: list[Charge]) -> RequestSummary:
    shown = max(charges, key=lambda item: (not item.waste, item.charge_time_ns, item.charge_id))
    return RequestSummary(
        request_id=shown.request_id,
        trace_id=shown.trace_id,
        organisation_id=shown.organisation_id,
        team_id=shown.team_id,
        model=shown.model,
        tier=shown.tier,
        region=shown.region,
        task=shown.task,
        finish_reason=shown.finish_reason,
        time_ns=max(charge.charge_time_ns for charge in charges),
        total_nano_usd=sum(charge.total_nano_usd for charge in charges),
        waste_nano_usd=sum(charge.waste_nano_usd for charge in charges),
        input_token_count=sum(charge.usage.input_token_count for charge in charges),
        output_token_count=sum(charge.usage.output_token_count for charge in charges),
        attempt_count=len(charges),
        unpriced=any(charge.unpriced for charge in charges),
    )
