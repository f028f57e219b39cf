"""One trace as a waterfall: when each span ran, what it cost, and why the work went where it went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from farthing.kit.telemetry import names
from farthing.ledger.core.charges import Charge
from farthing.ledger.core.spans import Span, SpanNode, build_tree

MAX_SPAN_COUNT = 500
_MAX_DEPTH = 12
_MAX_CANDIDATE_COUNT = 100


@dataclass(frozen=True, slots=True)
class SpanLine:
    """One row of the waterfall; x and width in thousandths of the trace."""

    node: SpanNode
    indent: int
    x: float
    width: float
    model: str
    token_text: str
    # Span cost and charges of this span disagree.
    charged_nano_usd: int | None

    @property
    def span(self) -> Span:
        """The span."""
        return self.node.span


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to answer that was weighed and not taken."""

    model: str
    tier: str
    region: str
    estimated_nano_usd: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class DecisionView:
    """Why the work went where it went."""

    decision_id: str
    policy: str
    reason: str
    model: str
    estimated_nano_usd: int | None
    rejected: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class TraceView:
    """Everything the page shows of a trace."""

    trace_id: str
    lines: tuple[SpanLine, ...]
    span_count: int
    start_ns: int
    duration_ns: int
    decisions: tuple[DecisionView, ...]
    charges: tuple[Charge, ...]
    total_nano_usd: int
    waste_nano_usd: int
    span_nano_usd: int


def make_trace_view(
    trace_id: str, spans: Sequence[Span], charges: Sequence[Charge]
) -> TraceView:
    """The view of a trace with at least one span or charge."""
    start_ns = min(
        (span.start_ns for span in spans),
        default=min((charge.charge_time_ns for charge in charges), default=0),
    )
    end_ns = max((span.end_ns for span in spans), default=start_ns)
    charged: dict[str, int] = {}
    for charge in charges:
        if charge.span_id:
            charged[charge.span_id] = charged.get(charge.span_id, 0) + charge.total_nano_usd
    nodes = build_tree(spans)[:MAX_SPAN_COUNT]
    length_ns = max(1, end_ns - start_ns)
    return TraceView(
        trace_id=trace_id,
        lines=tuple(_make_line(node, start_ns, length_ns, charged) for node in nodes),
        span_count=len(spans),
        start_ns=start_ns,
        duration_ns=end_ns - start_ns,
        decisions=tuple(_find_decisions(spans)),
        charges=tuple(charges),
        total_nano_usd=sum(charge.total_nano_usd for charge in charges),
        waste_nano_usd=sum(charge.waste_nano_usd for charge in charges),
        span_nano_usd=sum(span.cost_nano_usd or 0 for span in spans),
    )


def _make_line(
    node: SpanNode, start_ns: int, length_ns: int, charged: Mapping[str, int]
) -> SpanLine:
    span = node.span
    attributes = span.attributes
    counts = [
        attributes.get(names.GEN_AI_USAGE_INPUT_TOKENS, ""),
        attributes.get(names.GEN_AI_USAGE_OUTPUT_TOKENS, ""),
    ]
    width = max(3.0, round((span.end_ns - span.start_ns) * 1000 / length_ns, 2))
    amount = charged.get(span.span_id)
    return SpanLine(
        node=node,
        indent=min(node.depth, _MAX_DEPTH),
        x=min(round((span.start_ns - start_ns) * 1000 / length_ns, 2), 1000 - width),
        width=width,
        model=attributes.get(
            names.GEN_AI_RESPONSE_MODEL, attributes.get(names.GEN_AI_REQUEST_MODEL, "")
        ),
        token_text=" → ".join(count or "?" for count in counts) if any(counts) else "",
        charged_nano_usd=amount
        if amount is not None and amount != span.cost_nano_usd
        else None,
    )


def _find_decisions(spans: Sequence[Span]) -> Iterator[DecisionView]:
    for span in sorted(spans, key=lambda item: (item.start_ns, item.span_id)):
        told = [e.attributes for e in span.events if e.name == names.EVENT_DECISION]
        if not told and names.DECISION_REASON in span.attributes:
            told = [span.attributes]
        for attributes in told:
            yield DecisionView(
                decision_id=attributes.get(names.DECISION_ID, ""),
                policy=attributes.get(names.DECISION_POLICY, ""),
                reason=attributes.get(names.DECISION_REASON, ""),
                model=attributes.get(names.DECISION_MODEL, ""),
                estimated_nano_usd=_read_int(attributes.get(names.DECISION_ESTIMATED_NANO_USD)),
                rejected=_read_candidates(attributes.get(names.DECISION_REJECTED, "")),
            )


def _read_candidates(text: str) -> tuple[Candidate, ...]:
    """What a span tells of the losers; anybody may have sent it, so nothing is assumed."""
    try:
        items = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(items, list):
        return ()
    return tuple(_read_candidate(item) for item in items[:_MAX_CANDIDATE_COUNT])


def _read_candidate(item: object) -> Candidate:
    if not isinstance(item, dict):
        return Candidate("", "", "", None, str(item))
    reasons = [str(item[key]) for key in ("reason", "detail") if item.get(key)]
    return Candidate(
        model=str(item.get("model", "")),
        tier=str(item.get("tier", "")),
        region=str(item.get("region", "")),
        estimated_nano_usd=_read_int(item.get("estimated_nano_usd")),
        reason=": ".join(reasons),
    )


def _read_int(value: object) -> int | None:
    try:
        return int(str(value)) if value is not None else None
    except ValueError:
        return None
