from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from farthing.kit.telemetry.encode import SpanEncoder
from farthing.kit.telemetry.spans import SpanEvent, SpanRecord, TraceContext

TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3),
)
ATTRIBUTES = st.dictionaries(st.text("abc._", min_size=1, max_size=150), VALUES, max_size=6)
TIMES = st.integers(0, 2**63 - 1)
RECORDS = st.builds(
    SpanRecord,
    name=TEXTS,
    kind=st.sampled_from(["internal", "server", "client", "producer", "consumer"]),
    context=st.builds(
        TraceContext,
        st.binary(min_size=16, max_size=16).map(bytes.hex),
        st.binary(min_size=8, max_size=8).map(bytes.hex),
        st.just(True),
    ),
    parent_span_id=st.sampled_from(["", "00f067aa0ba902b7"]),
    start_ns=TIMES,
    end_ns=TIMES,
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(SpanEvent, TEXTS, TIMES, ATTRIBUTES), max_size=2),
    status=st.sampled_from(["unset", "ok", "error"]),
    message=TEXTS,
)


def value_of(message: AnyValue) -> Any:
    kind = message.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in message.array_value.values]
    return getattr(message, str(kind))


def attributes_of(items: Any) -> dict[str, Any]:
    read: list[KeyValue] = list(items)
    return {item.key: value_of(item.value) for item in read}


@given(st.lists(RECORDS, max_size=3))
def test_what_is_encoded_is_what_was_recorded(records: list[SpanRecord]) -> None:
    request = SpanEncoder({"service.name": "router"}).encode(records)
    (resource_spans,) = request.resource_spans
    assert attributes_of(resource_spans.resource.attributes) == {"service.name": "router"}
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


def test_equal_looking_values_of_other_kinds_are_not_mixed_up() -> None:
    encoder = SpanEncoder({})
    context = TraceContext("1" * 32, "2" * 16, True)

    def encode(value: Any) -> Any:
        record = SpanRecord("s", "server", context, "", 0, 1, {"k": value}, [], "ok", "")
        spans = encoder.encode([record]).resource_spans[0].scope_spans[0].spans
        return attributes_of(spans[0].attributes)["k"]

    assert [encode(value) for value in ("1", 1, True, 1.0, "1")] == ["1", 1, True, 1.0, "1"]
    assert encode(True) is True


def test_a_text_that_is_not_unicode_does_not_lose_the_batch() -> None:
    context = TraceContext("1" * 32, "2" * 16, True)
    record = SpanRecord("s", "server", context, "", 0, 1, {"k": "a\ud800b"}, [], "ok", "")
    request = SpanEncoder({}).encode([record])
    assert len(request.resource_spans[0].scope_spans[0].spans) == 1
