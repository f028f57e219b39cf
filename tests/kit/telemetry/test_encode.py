"""What is encoded is what was recorded, and what OpenTelemetry's own encoder makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import SharedAttributes
from farthing.kit.telemetry.encode import BatchEncoder, SpanEncoder
from farthing.kit.telemetry.spans import SpanEvent, SpanRecord, TraceContext
from farthing.kit.version import __version__

RESOURCE = {"service.name": "router"}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
KEYS = st.text("abc._", min_size=1, max_size=2) | st.text("abc._", min_size=1, max_size=150)
# Around the lengths of a varint and of an int64, and what lies between.
INTS = st.sampled_from(
    [
        sign * (1 << bits) + off
        for bits in range(0, 63, 7)
        for sign in (1, -1)
        for off in (-1, 0)
    ]
    + [-(2**63), 2**63 - 1]
) | st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(
    TEXTS,
    st.text("x", min_size=100, max_size=40_000),
    st.booleans(),
    INTS,
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3),
)
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=6)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
TIMES = st.integers(1, 2**63 - 1)
TRACE_IDS = st.integers(1, 2**128 - 1).map(lambda value: f"{value:032x}")
SPAN_IDS = st.integers(1, 2**64 - 1).map(lambda value: f"{value:016x}")
RECORDS = st.builds(
    SpanRecord,
    name=NAMES,
    kind=st.sampled_from(["internal", "server", "client", "producer", "consumer"]),
    context=st.builds(TraceContext, TRACE_IDS, SPAN_IDS, st.just(True)),
    parent_span_id=st.just("") | SPAN_IDS,
    start_ns=TIMES,
    end_ns=TIMES,
    own=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, NAMES, TIMES, ATTRIBUTES), max_size=2),
    status=st.sampled_from(["unset", "ok", "error"]),
    message=TEXTS,
    shared=st.lists(ATTRIBUTES.map(SharedAttributes), max_size=2).map(tuple),
)
# One for all examples, as a process has one: what it keeps must suit every span.
ENCODER = SpanEncoder()


def encode(*records: SpanRecord, encoder: SpanEncoder = ENCODER) -> bytes:
    return BatchEncoder(RESOURCE).encode([encoder.encode(record) for record in records])


def only_span(request: bytes) -> Span:
    parsed = ExportTraceServiceRequest.FromString(request)
    (span,) = parsed.resource_spans[0].scope_spans[0].spans
    return span


def record_of(
    own: dict[str, Any] | None = None, shared: tuple[SharedAttributes, ...] = ()
) -> SpanRecord:
    context = TraceContext("1" * 32, "2" * 16, True)
    return SpanRecord("s", "server", context, "", 1, 2, own or {}, [], "ok", "", shared)


def value_of(message: AnyValue) -> Any:
    kind = message.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in message.array_value.values]
    return getattr(message, str(kind))


def attributes_of(items: Any) -> dict[str, Any]:
    read: list[KeyValue] = list(items)
    found = {item.key: value_of(item.value) for item in read}
    assert len(found) == len(read), "a name twice on one span"
    return found


def by_the_sdk(record: SpanRecord) -> ReadableSpan:
    def context(span_id: str) -> SpanContext:
        return SpanContext(int(record.context.trace_id, 16), int(span_id, 16), is_remote=False)

    failed = record.status == "error" and record.message
    return ReadableSpan(
        record.name,
        context(record.context.span_id),
        context(record.parent_span_id) if record.parent_span_id else None,
        Resource(RESOURCE),
        record.attributes,
        [Event(event.name, event.attributes, event.time_ns) for event in record.events],
        kind=SpanKind[record.kind.upper()],
        instrumentation_scope=InstrumentationScope(names.SCOPE, __version__),
        status=Status(StatusCode[record.status.upper()], record.message if failed else None),
        start_time=record.start_ns,
        end_time=record.end_ns,
    )


def without_order(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """Attributes by name; flags and an empty status, which the two encoders write differently, the same."""
    for scope_spans in request.resource_spans[0].scope_spans:
        scope_spans.scope.ClearField("attributes")
        for span in scope_spans.spans:
            span.attributes.sort(key=lambda pair: pair.key)
            for event in span.events:
                event.attributes.sort(key=lambda pair: pair.key)
            span.flags = 0
            span.status.code = span.status.code
    return request


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_a_batch_reads_as_opentelemetrys_own_encoder_writes_it(
    records: list[SpanRecord],
) -> None:
    ours = ExportTraceServiceRequest.FromString(encode(*records))
    theirs = encode_spans([by_the_sdk(record) for record in records])
    assert without_order(ours) == without_order(theirs)


@given(st.lists(RECORDS, max_size=3))
def test_the_bytes_are_those_that_protobuf_writes(records: list[SpanRecord]) -> None:
    request = encode(*records)
    assert ExportTraceServiceRequest.FromString(request).SerializeToString() == request


@given(st.lists(RECORDS, max_size=3))
def test_what_is_encoded_is_what_was_recorded(records: list[SpanRecord]) -> None:
    request = ExportTraceServiceRequest.FromString(encode(*records))
    (resource_spans,) = request.resource_spans
    assert attributes_of(resource_spans.resource.attributes) == RESOURCE
    (scope_spans,) = resource_spans.scope_spans
    assert len(scope_spans.spans) == len(records)
    for span, record in zip(scope_spans.spans, records, strict=True):
        assert span.trace_id.hex() == record.context.trace_id
        assert span.span_id.hex() == record.context.span_id
        assert span.parent_span_id.hex() == record.parent_span_id
        assert span.name == record.name
        assert Span.SpanKind.Name(span.kind) == f"SPAN_KIND_{record.kind.upper()}"
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (
            record.start_ns,
            record.end_ns,
        )
        assert attributes_of(span.attributes) == record.attributes
        assert [
            (e.name, e.time_unix_nano, attributes_of(e.attributes)) for e in span.events
        ] == [tuple(event) for event in record.events]
        assert span.status.code == {"unset": 0, "ok": 1, "error": 2}[record.status]
        assert span.status.message == (record.message if record.status == "error" else "")
        assert span.flags == 0x101


def test_a_spans_own_attribute_stands_before_a_shared_one_of_the_same_name() -> None:
    first, second = SharedAttributes({"a": 1, "b": 1, "c": 1}), SharedAttributes({"b": 2})
    span = only_span(encode(record_of({"c": 3}, (first, second))))
    assert attributes_of(span.attributes) == {"a": 1, "b": 2, "c": 3}


def test_equal_looking_values_of_other_kinds_are_not_mixed_up() -> None:
    encoder = SpanEncoder()

    def pass_through(value: Any) -> Any:
        span = only_span(encode(record_of({"k": value}), encoder=encoder))
        return attributes_of(span.attributes)["k"]

    values = ["1", 1, True, 1.0, "1", 0, False, 0.0, -0.0, ["1"], ("1",), ["2"]]
    passed = [pass_through(value) for value in values]
    assert passed == [list(value) if isinstance(value, tuple) else value for value in values]
    assert [type(item) for item in passed[:8]] == [type(value) for value in values[:8]]
    assert [pass_through(value) for value in ([1], [True], [1.0])] == [[1], [True], [1.0]]
    assert type(pass_through([True])[0]) is bool


def test_more_kinds_of_attributes_than_are_kept_are_encoded_all_the_same() -> None:
    encoder = SpanEncoder()
    for number in range(5_000):
        own = {f"text{number}": "x", f"int{number}": number, f"list{number}": [str(number)]}
        span = only_span(encode(record_of(own), encoder=encoder))
        assert attributes_of(span.attributes) == own


@pytest.mark.parametrize("place", ["own", "shared", "name", "message", "event", "key"])
def test_a_text_that_is_not_unicode_does_not_lose_the_span(place: str) -> None:
    broken = "a\ud800b"
    record = record_of()
    match place:
        case "own":
            record = record_of({"k": broken})
        case "shared":
            record = record_of({}, (SharedAttributes({"k": broken}),))
        case "name":
            record = record._replace(name=broken)
        case "message":
            record = record._replace(status="error", message=broken)
        case "event":
            record = record._replace(events=[SpanEvent(broken, 1, {"k": broken})])
        case "key":
            record = record_of({broken: 1})
    assert b"a?b" in encode(record)
    assert only_span(encode(record)).span_id.hex() == "2" * 16
