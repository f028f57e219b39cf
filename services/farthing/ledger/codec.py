"""Between the contract's messages and the core's values."""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.common.v1 import common_pb2
from farthing.api.ledger.v1 import ledger_pb2
from farthing.kit.errors import InvalidArgument
from farthing.ledger.core import charges as core
from farthing.ledger.core import spend
from farthing.ledger.core.spans import SpanNode

_E = TypeVar("_E", bound=StrEnum)


def _table(enum: type[_E], wire: EnumTypeWrapper, prefix: str) -> dict[int, _E]:
    """Wire number to value; a value's name is the wire name without its prefix."""
    return {number: enum[name.removeprefix(prefix)] for name, number in wire.items()}


_KINDS = _table(core.CostKind, common_pb2.CostKind, "COST_KIND_")
_UNITS = _table(core.CostUnit, common_pb2.CostUnit, "COST_UNIT_")
_TIERS = _table(core.Tier, common_pb2.Tier, "TIER_")
_FINISH_REASONS = _table(core.FinishReason, common_pb2.FinishReason, "FINISH_REASON_")
_WASTES = _table(core.Waste, ledger_pb2.Waste, "WASTE_")
_DIMENSIONS = {
    ledger_pb2.SpendDimension.Value(f"SPEND_DIMENSION_{dimension.name}"): dimension
    for dimension in spend.Dimension
}


def decode_charge(message: ledger_pb2.Charge) -> core.Charge:
    """The charge of a message. InvalidArgument for an enum value this release does not know:
    recording it as something else would change what the producer said."""
    usage = message.usage
    return core.Charge(
        charge_id=message.charge_id,
        request_id=message.request_id,
        decision_id=message.decision_id,
        hold_id=message.hold_id,
        organisation_id=message.principal.organisation_id,
        cost_centre_id=message.principal.cost_centre_id,
        team_id=message.principal.team_id,
        key_id=message.principal.key_id,
        service=message.service,
        model=message.model,
        tier=_decode(_TIERS, message.tier, "tier"),
        region=message.region,
        instance_id=message.instance_id,
        trace_id=message.trace_id,
        span_id=message.span_id,
        cost_lines=tuple(
            core.CostLine(
                kind=_decode(_KINDS, line.kind, "cost_lines.kind"),
                amount_nano_usd=line.amount_nano_usd,
                quantity=line.quantity,
                unit=_decode(_UNITS, line.unit, "cost_lines.unit"),
                estimated=line.estimated,
            )
            for line in message.cost_lines
        ),
        total_nano_usd=message.total_nano_usd,
        usage=core.Usage(
            usage.input_token_count, usage.output_token_count, usage.cached_input_token_count,
            usage.reasoning_token_count, usage.queue_us, usage.prefill_us, usage.decode_us,
            usage.compute_us, usage.request_bytes, usage.response_bytes, usage.energy_uj,
            usage.energy_estimated,
        ),
        finish_reason=_decode(_FINISH_REASONS, message.finish_reason, "finish_reason"),
        waste=_decode(_WASTES, message.waste, "waste"),
        price_version=message.price_version,
        charge_time_ns=message.charge_time.ToNanoseconds(),
        task=message.task,
    )  # fmt: skip


def encode_charge(charge: core.Charge) -> ledger_pb2.Charge:
    """The message of a charge. Of the principal, what a charge keeps: who pays."""
    usage = charge.usage
    return ledger_pb2.Charge(
        charge_id=charge.charge_id,
        request_id=charge.request_id,
        decision_id=charge.decision_id,
        hold_id=charge.hold_id,
        principal=common_pb2.Principal(
            key_id=charge.key_id,
            organisation_id=charge.organisation_id,
            cost_centre_id=charge.cost_centre_id,
            team_id=charge.team_id,
        ),
        service=charge.service,
        model=charge.model,
        tier=f"TIER_{charge.tier.name}",
        region=charge.region,
        instance_id=charge.instance_id,
        trace_id=charge.trace_id,
        span_id=charge.span_id,
        cost_lines=[
            common_pb2.CostLine(
                kind=f"COST_KIND_{line.kind.name}",
                amount_nano_usd=line.amount_nano_usd,
                quantity=line.quantity,
                unit=f"COST_UNIT_{line.unit.name}",
                estimated=line.estimated,
            )
            for line in charge.cost_lines
        ],
        total_nano_usd=charge.total_nano_usd,
        usage=common_pb2.Usage(
            input_token_count=usage.input_token_count,
            output_token_count=usage.output_token_count,
            cached_input_token_count=usage.cached_input_token_count,
            reasoning_token_count=usage.reasoning_token_count,
            queue_us=usage.queue_us,
            prefill_us=usage.prefill_us,
            decode_us=usage.decode_us,
            compute_us=usage.compute_us,
            request_bytes=usage.request_bytes,
            response_bytes=usage.response_bytes,
            energy_uj=usage.energy_uj,
            energy_estimated=usage.energy_estimated,
        ),
        finish_reason=f"FINISH_REASON_{charge.finish_reason.name}",
        waste=f"WASTE_{charge.waste.name}",
        price_version=charge.price_version,
        charge_time=encode_time(charge.charge_time_ns),
        task=charge.task,
    )


def encode_outcome(outcome: core.RecordOutcome) -> str:
    """The wire name of an outcome."""
    return f"RECORD_OUTCOME_{outcome.name}"


def encode_row(row: spend.SpendRow) -> ledger_pb2.SpendRow:
    """The message of a row of sums."""
    return ledger_pb2.SpendRow(
        values=row.values,
        total_nano_usd=row.total_nano_usd,
        cost_lines=[
            common_pb2.CostLine(
                kind=f"COST_KIND_{line.kind.name}",
                amount_nano_usd=line.amount_nano_usd,
                quantity=line.quantity,
                unit=f"COST_UNIT_{line.unit.name}",
                estimated=line.estimated,
            )
            for line in row.cost_lines
        ],
        charge_count=row.charge_count,
        input_token_count=row.input_token_count,
        output_token_count=row.output_token_count,
        waste_nano_usd=row.waste_nano_usd,
    )


def encode_span(node: SpanNode) -> ledger_pb2.Span:
    """The message of a span with its costs."""
    span = node.span
    return ledger_pb2.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        name=span.name,
        kind=span.kind,
        service_name=span.service_name,
        region=span.region,
        start_time=encode_time(span.start_ns),
        end_time=encode_time(span.end_ns),
        status=span.status,
        attributes=dict(span.attributes),
        cost_nano_usd=node.cost_nano_usd,
        subtree_cost_nano_usd=node.subtree_cost_nano_usd,
    )


def encode_time(time_ns: int) -> Timestamp:
    """The message of an instant, Unix nanoseconds."""
    return Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)


def decode_dimension(number: int, field: str) -> spend.Dimension:
    """The dimension of a wire value. InvalidArgument names `field`."""
    dimension = _DIMENSIONS.get(number)
    if dimension is None:
        raise InvalidArgument(
            f"{field} has dimension {number}; use one of SpendDimension",
            field=field,
            metadata={"value": str(number)},
        )
    return dimension


def decode_filter(message: ledger_pb2.SpendFilter, field: str) -> spend.SpendFilter:
    """The filter of a message. InvalidArgument names `field` when it can match nothing."""
    dimension = decode_dimension(message.dimension, f"{field}.dimension")
    values = tuple(message.values)
    if not values or len(values) > 1_000:
        raise InvalidArgument(
            f"{field}.values has {len(values)} values; send 1..1000", field=f"{field}.values"
        )
    parse = {spend.Dimension.HOUR: spend.parse_hour, spend.Dimension.DAY: spend.parse_day}
    if dimension in parse:
        for value in values:
            try:
                parse[dimension](value)
            except ValueError:
                raise InvalidArgument(
                    f"{field}.values has {value!r}; write an hour as 2026-01-31T13:00:00Z "
                    "and a day as 2026-01-31",
                    field=f"{field}.values",
                    metadata={"value": value},
                ) from None
    return spend.SpendFilter(dimension, values)


def encode_page_token(position: tuple[int, str]) -> str:
    """Where the next page of charges begins."""
    return base64.urlsafe_b64encode(f"{position[0]}:{position[1]}".encode()).decode()


def decode_page_token(token: str) -> tuple[int, str] | None:
    """The inverse; None for an empty token. InvalidArgument for one we did not make."""
    if not token:
        return None
    try:
        time_text, _, charge_id = base64.urlsafe_b64decode(token).decode().partition(":")
        time_ns = int(time_text)
    except (binascii.Error, ValueError):
        time_ns = -1
    if not 0 <= time_ns < core.MAX_TIME_NS:
        raise InvalidArgument(
            "page_token is not one that ListCharges gave; send the last next_page_token or none",
            field="page_token",
        )
    return time_ns, charge_id


def _decode(table: dict[int, _E], number: int, field: str) -> _E:
    value = table.get(number)
    if value is None:
        raise InvalidArgument(
            f"{field} has value {number}, which this release does not know; upgrade the ledger",
            field=field,
            metadata={"value": str(number)},
        )
    return value
