"""Turns OTLP spans of any sender into the ledger's: bounded, as text, never trusted."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from farthing.kit.telemetry import names
from farthing.ledger.core.charges import MAX_AMOUNT, MAX_TIME_NS
from farthing.ledger.core.spans import Span, SpanEvent

# A decision's list of rejected candidates is the longest text of our own.
MAX_TEXT_LENGTH = 65_536
MAX_NAME_LENGTH = 512
MAX_ATTRIBUTE_COUNT = 128
MAX_EVENT_COUNT = 128

_KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "producer",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "consumer",
}
_STATUSES = {trace_pb2.Status.STATUS_CODE_OK: "ok", trace_pb2.Status.STATUS_CODE_ERROR: "error"}

_to_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(slots=True)
class DecodedSpans:
    """The spans that can be kept, and why others cannot."""

    spans: list[Span] = field(default_factory=list)
    rejected_count: int = 0
    message: str = ""

    def reject(self, message: str) -> None:
        """Counts a span that cannot be kept; the first reason is told."""
        self.rejected_count += 1
        self.message = self.message or message


def decode_request(request: ExportTraceServiceRequest) -> DecodedSpans:
    """All spans of an export; what exceeds the bounds is cut, what has no valid id is rejected."""
    decoded = DecodedSpans()
    for resource_spans in request.resource_spans:
        resource = _read_attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                _decode_span(span, resource, decoded)
    return decoded


def _decode_span(
    span: trace_pb2.Span, resource: Mapping[str, str], decoded: DecodedSpans
) -> None:
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return decoded.reject("trace_id must be 16 bytes and not all zero")
    if len(span.span_id) != 8 or not any(span.span_id):
        return decoded.reject("span_id must be 8 bytes and not all zero")
    if len(span.parent_span_id) not in (0, 8):
        return decoded.reject("parent_span_id must be empty or 8 bytes")
    if not 0 < span.start_time_unix_nano < MAX_TIME_NS:
        return decoded.reject("start_time_unix_nano is not set or out of range")
    if not span.start_time_unix_nano <= span.end_time_unix_nano < MAX_TIME_NS:
        return decoded.reject(
            "end_time_unix_nano is before start_time_unix_nano or out of range"
        )
    attributes = _read_attributes(span.attributes)
    if span.status.message:
        attributes.setdefault("status.message", _cut(span.status.message))
    decoded.spans.append(
        Span(
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_span_id=span.parent_span_id.hex() if any(span.parent_span_id) else "",
            name=span.name[:MAX_NAME_LENGTH],
            kind=_KINDS.get(span.kind, "internal"),
            service_name=resource.get(names.SERVICE_NAME, "")[:MAX_NAME_LENGTH],
            region=resource.get(names.CLOUD_REGION, "")[:MAX_NAME_LENGTH],
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            status=_STATUSES.get(span.status.code, ""),
            attributes=attributes,
            events=tuple(
                SpanEvent(
                    event.name[:MAX_NAME_LENGTH],
                    min(event.time_unix_nano, MAX_TIME_NS),
                    _read_attributes(event.attributes),
                )
                for event in span.events[:MAX_EVENT_COUNT]
            ),
            organisation_id=attributes.get(names.ORGANISATION_ID, "")[:MAX_NAME_LENGTH],
            cost_nano_usd=_read_count(attributes.get(names.COST_NANO_USD)),
            token_count=(_read_count(attributes.get(names.GEN_AI_USAGE_INPUT_TOKENS)) or 0)
            + (_read_count(attributes.get(names.GEN_AI_USAGE_OUTPUT_TOKENS)) or 0),
        )
    )
    return None


def _read_attributes(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for pair in pairs:
        if len(attributes) == MAX_ATTRIBUTE_COUNT:
            break
        attributes[pair.key[:MAX_NAME_LENGTH]] = _cut(_show(pair.value))
    return attributes


def _show(value: common_pb2.AnyValue) -> str:
    # Nearly all are texts and whole numbers; the rest is written as JSON, which is also how true and 1.5 are written.
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "int_value":
        return str(value.int_value)
    plain = _read_value(value)
    if isinstance(plain, str):
        return plain
    return "" if plain is None else _to_json(plain)


def _read_value(value: common_pb2.AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_read_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _read_value(pair.value) for pair in value.kvlist_value.values}
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return None if kind is None else getattr(value, kind)


def _read_count(text: str | None) -> int | None:
    if text is None or len(text) > 16 or not (text.isascii() and text.isdigit()):
        return None
    count = int(text)
    return count if count <= MAX_AMOUNT else None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"
