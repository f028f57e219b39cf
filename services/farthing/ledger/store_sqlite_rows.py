"""How charges and spans look as SQLite rows, both ways."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from farthing.ledger.core.charges import (
    Charge,
    CostKind,
    CostLine,
    CostUnit,
    FinishReason,
    Tier,
    Usage,
    Waste,
)
from farthing.ledger.core.spans import Span, SpanEvent

CHARGE_COLUMNS = (
    "charge_id", "request_id", "decision_id", "hold_id", "organisation_id", "cost_centre_id",
    "team_id", "key_id", "service", "model", "tier", "region", "instance_id", "trace_id",
    "span_id", "total_nano_usd", "input_token_count", "output_token_count", "usage",
    "finish_reason", "waste", "price_version", "charge_time_ns", "task",
)  # fmt: skip
INSERT_CHARGE = (
    f"INSERT INTO charges ({', '.join(CHARGE_COLUMNS)}, content_hash) "
    f"VALUES ({', '.join('?' * (len(CHARGE_COLUMNS) + 1))}) ON CONFLICT (charge_id) DO NOTHING"
)
SELECT_CHARGES = (
    "SELECT "
    + ", ".join(f"t.{name}" for name in CHARGE_COLUMNS)
    + ", (SELECT json_group_array(json_array(kind, amount_nano_usd, quantity, unit, estimated))"
    " FROM (SELECT * FROM charge_lines AS l WHERE l.charge_row = t.charge_row ORDER BY line))"
    " FROM charges AS t"
)
SPAN_COLUMNS = (
    "trace_id", "span_id", "parent_span_id", "name", "kind", "service_name", "region",
    "start_ns", "end_ns", "status", "attributes", "events", "organisation_id",
    "cost_nano_usd", "token_count",
)  # fmt: skip
INSERT_SPAN = (
    f"INSERT INTO spans ({', '.join(SPAN_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(SPAN_COLUMNS))}) ON CONFLICT (trace_id, span_id) DO NOTHING"
)
SELECT_SPANS = f"SELECT {', '.join(SPAN_COLUMNS)} FROM traces.spans"


def charge_row(charge: Charge) -> tuple[object, ...]:
    """A charge in the order of CHARGE_COLUMNS."""
    usage = charge.usage
    return (
        charge.charge_id, charge.request_id, charge.decision_id, charge.hold_id,
        charge.organisation_id, charge.cost_centre_id, charge.team_id, charge.key_id,
        charge.service, charge.model, charge.tier, charge.region, charge.instance_id,
        charge.trace_id, charge.span_id, charge.total_nano_usd, usage.input_token_count,
        usage.output_token_count, json.dumps(usage.values(), separators=(",", ":")),
        charge.finish_reason, charge.waste, charge.price_version, charge.charge_time_ns,
        charge.task,
    )  # fmt: skip


def read_charge(row: Sequence[Any]) -> Charge:
    """The charge of a row of SELECT_CHARGES."""
    fields = dict(zip(CHARGE_COLUMNS, row, strict=False))
    usage = Usage(*json.loads(fields["usage"]))
    del fields["usage"], fields["input_token_count"], fields["output_token_count"]
    fields["tier"] = Tier(fields["tier"])
    fields["finish_reason"] = FinishReason(fields["finish_reason"])
    fields["waste"] = Waste(fields["waste"])
    lines = tuple(
        CostLine(CostKind(kind), amount, quantity, CostUnit(unit), bool(estimate))
        for kind, amount, quantity, unit, estimate in json.loads(row[-1])
    )
    return Charge(**fields, usage=usage, cost_lines=lines)


def span_row(span: Span) -> tuple[object, ...]:
    """A span in the order of SPAN_COLUMNS."""
    events = [[event.name, event.time_ns, dict(event.attributes)] for event in span.events]
    return (
        span.trace_id, span.span_id, span.parent_span_id, span.name, span.kind,
        span.service_name, span.region, span.start_ns, span.end_ns, span.status,
        json.dumps(dict(span.attributes)), json.dumps(events), span.organisation_id,
        span.cost_nano_usd, span.token_count,
    )  # fmt: skip


def read_span(row: Sequence[Any]) -> Span:
    """The span of a row of SELECT_SPANS."""
    fields = dict(zip(SPAN_COLUMNS, row, strict=True))
    fields["attributes"] = json.loads(fields["attributes"])
    fields["events"] = tuple(SpanEvent(*event) for event in json.loads(fields["events"]))
    return Span(**fields)
