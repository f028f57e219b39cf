"""Span records straight into OTLP's wire format.

Every request of every service pays for this twice or more, and building protobuf objects for some twenty attributes a
span costs more than recording them: by ReadableSpan 78 µs a span, by OTLP messages 40 to 60, by bytes under 15
(tests/bench/span_encoding.py). Field numbers are those of opentelemetry-proto 1.x, frozen there as stable.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing.kit.telemetry import names
from farthing.kit.telemetry.spans import Attributes, AttributeValue, SpanEvent, SpanRecord
from farthing.kit.version import __version__

_KIND = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_STATUS = {"unset": 0, "ok": 1, "error": 2}
_FLAGS = 0x101  # sampled; and known whether the parent is remote
_INT64_MASK = (1 << 64) - 1
_MOST_KEPT = 8192
_LONGEST_KEPT = 64
_TIMES = struct.Struct("<BQBQ").pack  # two tagged fixed64
_TIME = struct.Struct("<BQ").pack
_FLAG_FIELD = struct.pack("<BBI", 0x85, 0x01, _FLAGS)  # field 16, fixed32
_DOUBLE = struct.Struct("<Bd").pack


class SpanEncoder:
    """Encodes batches of one process. Not for two threads at a time.

    Keeps encoded text attributes: most values (model, tier, region, tenant, method) come back in every span.
    """

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}
        attributes = b"".join(_field(0x0A, item) for item in self._attributes(resource))
        self._resource = _field(0x0A, attributes)
        name, version = names.SCOPE.encode(), __version__.encode()
        self._scope = _field(0x0A, _field(0x0A, name) + _field(0x12, version))

    def encode(self, records: Iterable[SpanRecord]) -> ExportTraceServiceRequest:
        """One request with all the records, in their order."""
        spans = b"".join([_field(0x12, self._span(record)) for record in records])
        scope_spans = _field(0x12, self._scope + spans)
        request = _field(0x0A, self._resource + scope_spans)
        return ExportTraceServiceRequest.FromString(request)

    def _span(self, record: SpanRecord) -> bytes:
        name, _, context, parent_span_id, start_ns, end_ns, *_ = record
        parts = [
            b"\x0a\x10",
            bytes.fromhex(context.trace_id),
            b"\x12\x08",
            bytes.fromhex(context.span_id),
        ]
        if parent_span_id:
            parts += (b"\x22\x08", bytes.fromhex(parent_span_id))
        parts += (
            _field(0x2A, name.encode()),
            bytes((0x30, _KIND[record.kind])),
            _TIMES(0x39, start_ns, 0x41, end_ns),
        )
        for item in self._attributes(record.attributes):
            parts.append(_field(0x4A, item))
        for event in record.events:
            parts.append(_field(0x5A, self._event(event)))
        if record.status != "unset":
            status = bytes((0x18, _STATUS[record.status]))
            if record.status == "error" and record.message:
                status = _field(0x12, record.message.encode()) + status
            parts.append(_field(0x7A, status))
        parts.append(_FLAG_FIELD)
        return b"".join(parts)

    def _event(self, event: SpanEvent) -> bytes:
        attributes = b"".join(
            [_field(0x1A, item) for item in self._attributes(event.attributes)]
        )
        return _TIME(0x09, event.time_ns) + _field(0x12, event.name.encode()) + attributes

    def _attributes(self, attributes: Attributes) -> Iterable[bytes]:
        kept = self._kept
        for key, value in attributes.items():
            if type(value) is not str:
                yield _field(0x0A, key.encode()) + _field(0x12, _any(value))
                continue
            item = kept.get((key, value))
            if item is None:
                item = _field(0x0A, key.encode()) + _field(0x12, _field(0x0A, _text(value)))
                if len(value) <= _LONGEST_KEPT:
                    if len(kept) >= _MOST_KEPT:
                        kept.clear()
                    kept[key, value] = item
            yield item


def _any(value: AttributeValue) -> bytes:
    """The body of an AnyValue."""
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _varint(value & _INT64_MASK)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if isinstance(value, str):
        return _field(0x0A, _text(value))
    return _field(0x2A, b"".join([_field(0x0A, _any(item)) for item in value]))


def _field(tag: int, body: bytes) -> bytes:
    """A length-delimited field whose tag fits one byte."""
    size = len(body)
    if size < 0x80:
        return bytes((tag, size)) + body
    return bytes((tag,)) + _varint(size) + body


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _text(value: str) -> bytes:
    # A lone surrogate (a broken header, say) must not lose the whole batch.
    return value.encode(errors="replace")
