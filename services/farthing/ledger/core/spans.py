"""Spans as values, and the tree that tells what each span and everything below it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from farthing.ledger.core.charges import Charge


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened on a span, at Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """One span as taken over OTLP; ids in hex, times in Unix nanoseconds, values as text."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    service_name: str
    region: str
    start_ns: int
    end_ns: int
    status: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    organisation_id: str = ""
    # What the span says it cost; None when it says nothing. Charges are the truth, this is a view.
    cost_nano_usd: int | None = None
    # Tokens it says it used, for telling unpriced calls.
    token_count: int = 0


@dataclass(frozen=True, slots=True)
class SpanNode:
    """A span in its tree: depth 0 at a root, costs in nano-USD."""

    span: Span
    depth: int
    cost_nano_usd: int
    subtree_cost_nano_usd: int


@dataclass(frozen=True, slots=True)
class TraceBalance:
    """One trace's cost as its spans tell it and as it was charged, nano-USD."""

    trace_id: str
    span_count: int
    span_nano_usd: int
    charge_nano_usd: int

    @property
    def agrees(self) -> bool:
        """True when both tell the same."""
        return self.span_nano_usd == self.charge_nano_usd


def build_tree(spans: Iterable[Span]) -> tuple[SpanNode, ...]:
    """Spans depth first, siblings by start. A span whose parent is not there is a root; a ring of
    parents, which only a broken or hostile client sends, is cut at its earliest span."""
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    known = {span.span_id for span in ordered}
    children: dict[str, list[Span]] = {}
    roots: list[Span] = []
    for span in ordered:
        if span.parent_span_id in known and span.parent_span_id != span.span_id:
            children.setdefault(span.parent_span_id, []).append(span)
        else:
            roots.append(span)
    walked: list[tuple[Span, int, int]] = []  # span, depth, position of its parent or -1
    seen: set[str] = set()
    for root in [*roots, *ordered]:
        pending = [(root, 0, -1)]
        while pending:
            span, depth, parent = pending.pop()
            if span.span_id in seen:
                continue
            seen.add(span.span_id)
            position = len(walked)
            walked.append((span, depth, parent))
            below = children.get(span.span_id, ())
            pending.extend((child, depth + 1, position) for child in reversed(below))
    subtree = [span.cost_nano_usd or 0 for span, _, _ in walked]
    for position in range(len(walked) - 1, -1, -1):
        parent = walked[position][2]
        if parent >= 0:
            subtree[parent] += subtree[position]
    return tuple(
        SpanNode(span, depth, span.cost_nano_usd or 0, subtree[position])
        for position, (span, depth, _) in enumerate(walked)
    )


def visible_spans(
    spans: Sequence[Span], charges: Sequence[Charge], organisation_id: str
) -> tuple[Span, ...]:
    """The spans of a trace that an organisation may see.

    Callers choose trace ids, so two tenants can share one. A trace that names no other tenant
    is shown whole to a tenant with a charge or span on it; of a shared one, only its own spans.
    """
    owners = {charge.organisation_id for charge in charges}
    owners |= {span.organisation_id for span in spans if span.organisation_id}
    if organisation_id not in owners:
        return ()
    if owners == {organisation_id}:
        return tuple(spans)
    paid = {c.span_id for c in charges if c.organisation_id == organisation_id and c.span_id}
    # A paid span that names another owner is that owner's: span ids are chosen by callers too.
    return tuple(
        span
        for span in spans
        if span.organisation_id == organisation_id
        or (not span.organisation_id and span.span_id in paid)
    )
