"""The money side of an attempt: lines capped to the hold, a charge for the ledger, the same numbers on the span."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.common.v1 import common_pb2
from farthing.api.ledger.v1 import ledger_pb2
from farthing.clients.ledger import CHARGE_KIND
from farthing.clients.outbox import Outbox
from farthing.clients.quota import Principal
from farthing.kit.clock import Clock
from farthing.kit.ids import new_id
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import Description
from farthing.kit.telemetry.cost import PricedUsage, describe_cost
from farthing.kit.telemetry.spans import Span
from farthing.pricing import CostLine, Usage, cap_lines, sum_lines
from farthing.pricing.wire import encode_line, encode_usage
from farthing.router.metrics import RouterMetrics

_TIER_NAME = {
    common_pb2.TIER_EDGE: "edge",
    common_pb2.TIER_CLOUD: "cloud",
    common_pb2.TIER_CACHE: "cache",
}
_MOST_KEPT = 1024
# Two attempts and one settlement.
_MOST_RECORDS = 3


@dataclass(slots=True)
class Account:
    """What all charges of one request have in common."""

    request_id: str
    decision_id: str
    hold_id: str
    principal: Principal
    task: str
    price_version: str


@dataclass(slots=True)
class Work:
    """One piece of paid work: where it was done, what it used, what that costs at the price book."""

    charge_id: str
    service: str
    model: str
    tier: common_pb2.Tier
    region: str
    instance_id: str
    usage: Usage
    lines: tuple[CostLine, ...]
    estimated: bool
    finish_reason: common_pb2.FinishReason
    waste: ledger_pb2.Waste = ledger_pb2.WASTE_UNSPECIFIED


class Biller:
    """Turns work into charges in the outbox. A charge and its span carry the same amount, to the nano."""

    def __init__(self, outbox: Outbox, clock: Clock, metrics: RouterMetrics) -> None:
        self._outbox, self._clock, self._metrics = outbox, clock, metrics

    def bill(
        self, account: Account, work: Work, span: Span, *, limit_nano_usd: int
    ) -> tuple[ledger_pb2.Charge, tuple[CostLine, ...]]:
        """Price the work onto its span and make the charge; what passes the limit is the operator's, and said so."""
        lines, cut = cap_lines(work.lines, limit_nano_usd)
        total = sum_lines(lines)
        if span.recording:
            span.update(partial(_describe, account, work, lines, total))
        if cut:
            span.set(names.COST_UNBILLED_NANO_USD, cut)
        if work.waste:
            span.set(names.COST_WASTE, ledger_pb2.Waste.Name(work.waste)[6:].lower())
        seconds, nanos = divmod(self._clock.time_ns(), 1_000_000_000)
        charge = ledger_pb2.Charge(
            charge_id=work.charge_id,
            request_id=account.request_id,
            decision_id=account.decision_id,
            hold_id=account.hold_id,
            principal=_encode_principal(account.principal),
            service=work.service,
            model=work.model,
            tier=work.tier,
            region=work.region,
            instance_id=work.instance_id,
            trace_id=span.context.trace_id,
            span_id=span.context.span_id,
            cost_lines=[encode_line(line) for line in lines],
            total_nano_usd=total,
            usage=encode_usage(work.usage),
            finish_reason=work.finish_reason,
            waste=work.waste,
            price_version=account.price_version,
            charge_time=Timestamp(seconds=seconds, nanos=nanos),
            task=account.task,
        )
        self._metrics.charged(_TIER_NAME[work.tier], total)
        return charge, lines

    def require_room(self) -> None:
        """ResourceExhausted unless what a request leaves behind fits the outbox: ask before work begins."""
        self._outbox.require_room(_MOST_RECORDS)

    async def record_durable(self, charge: ledger_pb2.Charge) -> None:
        """Return once the charge survives the death of this process."""
        await self._outbox.append_durable(
            CHARGE_KIND, charge.charge_id, charge.SerializeToString()
        )

    def record(self, charge: ledger_pb2.Charge) -> None:
        """Queue the charge: for callers that may not wait because they are being cancelled."""
        self._outbox.append(CHARGE_KIND, charge.charge_id, charge.SerializeToString())


def new_charge_id() -> str:
    """An id for a charge, made before its work begins."""
    return new_id("charge")


def _describe(
    account: Account, work: Work, lines: tuple[CostLine, ...], total_nano_usd: int
) -> Description:
    usage = work.usage
    return describe_cost(
        PricedUsage(
            input_token_count=usage.input_token_count,
            output_token_count=usage.output_token_count,
            cached_input_token_count=usage.cached_input_token_count,
            reasoning_token_count=usage.reasoning_token_count,
            total_nano_usd=total_nano_usd,
            lines=tuple([(line.kind, line.amount_nano_usd) for line in lines]),
            price_version=account.price_version,
            charge_id=work.charge_id,
            estimated=work.estimated,
            energy_uj=usage.energy_uj,
            compute_us=usage.compute_us,
            queue_us=usage.queue_us,
        )
    )


@lru_cache(_MOST_KEPT)
def _encode_principal(principal: Principal) -> common_pb2.Principal:
    return common_pb2.Principal(
        key_id=principal.key_id,
        organisation_id=principal.organisation_id,
        cost_centre_id=principal.cost_centre_id,
        team_id=principal.team_id,
        default_policy=principal.default_policy,
        admin=principal.admin,
    )
