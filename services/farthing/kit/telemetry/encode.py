"""Span records straight into OTLP's wire format, one by one as they end.

Every request of every service pays for this twice or more, and building protobuf objects for some twenty attributes a
span costs more than recording them; tests/bench/span_encoding.py has the figures. Messages kept and filled anew for
each span were tried too: 19 µs where this takes 14. Field numbers are those of opentelemetry-proto 1.x, frozen there
as stable.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import (
    SPAN_TAG,
    Attributes,
    AttributeValue,
    Description,
    SharedAttributes,
    encode_attributes,
)
from farthing.kit.telemetry.spans import SpanEvent, SpanRecord
from farthing.kit.telemetry.wire import field, head, utf8, varint
from farthing.kit.version import __version__

_K = TypeVar("_K")
_V = TypeVar("_V")
_KIND = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}
_STATUS = {"unset": 0, "ok": 1, "error": 2}
_FLAGS = 0x101  # sampled; and known whether the parent is remote
_FLAG_FIELD = struct.pack("<BBI", 0x85, 0x01, _FLAGS)  # field 16, fixed32
_TIMES = struct.Struct("<BQBQ").pack  # two tagged fixed64
_TIME = struct.Struct("<BQ").pack
_DOUBLE = struct.Struct("<d").pack
# What ends a span without a message.
_END = {
    status: (field(0x7A, bytes((0x18, code))) if code else b"") + _FLAG_FIELD
    for status, code in _STATUS.items()
}
_MOST_KEPT = 2048


class SpanEncoder:
    """Encodes spans one by one, from any thread.

    Most of an attribute's bytes come before its value, and are the same for each value of that key and length: they
    are kept. Values are not, for many are new each time; whose are not belong into SharedAttributes.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], bytes] = {}
        self._shared: dict[tuple[SharedAttributes, ...], SharedAttributes] = {}
        # By key, then by the value's length in bytes.
        self._texts: dict[str, dict[int, bytes]] = {}
        self._ints: dict[str, dict[int, bytes]] = {}
        self._doubles: dict[str, bytes] = {}
        # Whole, by key and value. Apart, for 1 == True.
        self._bools: dict[tuple[str, bool], bytes] = {}
        self._lists: dict[tuple[str, ...], bytes] = {}

    def encode(self, record: SpanRecord) -> bytes:
        """The span as field 2 of a ScopeSpans: such fields one after the other are a batch."""
        (
            name, kind, context, parent_span_id, start_ns, end_ns,
            own, events, status, message, shared,
        ) = record  # fmt: skip
        ids = f"0a10{context[0]}1208{context[1]}"
        if parent_span_id:
            ids = f"{ids}2208{parent_span_id}"
        parts = [
            bytes.fromhex(ids),
            self._names.get((name, kind)) or self._name(name, kind),
            _TIMES(0x39, start_ns, 0x41, end_ns),
        ]
        if shared:
            group = self._shared.get(shared) or self._join(shared)
            if own.keys().isdisjoint(group.values):
                parts.append(group.encoded)
            else:
                left = {key: value for key, value in group.values.items() if key not in own}
                parts.append(encode_attributes(SPAN_TAG, left))
        self._add(parts, own)
        for event in events:
            parts.append(_encode_event(event))
        if message and status == "error":
            told = field(0x12, utf8(message)) + bytes((0x18, _STATUS[status]))
            parts += (field(0x7A, told), _FLAG_FIELD)
        else:
            parts.append(_END[status])
        body = b"".join(parts)
        return head(0x12, len(body)) + body

    def _add(self, parts: list[bytes], attributes: Attributes) -> None:
        texts, ints, add = self._texts, self._ints, parts.append
        for key, value in attributes.items():
            kind = type(value)
            if kind is str:
                try:
                    data = value.encode()  # type: ignore[union-attr]
                except UnicodeEncodeError:
                    data = utf8(value)  # type: ignore[arg-type]
                try:
                    add(texts[key][len(data)])
                except KeyError:
                    add(self._before_text(key, len(data)))
                add(data)
            elif kind is int:
                data = varint(value)  # type: ignore[arg-type]
                try:
                    add(ints[key][len(data)])
                except KeyError:
                    add(self._before_int(key, len(data)))
                add(data)
            elif kind is float:
                add(self._doubles.get(key) or self._before_double(key))
                add(_DOUBLE(value))
            elif kind is bool:
                add(self._bools.get((key, value)) or self._bool(key, value))  # type: ignore[arg-type]
            else:
                add(self._list(key, value))

    def _join(self, shared: tuple[SharedAttributes, ...]) -> SharedAttributes:
        return _keep(self._shared, shared, SharedAttributes(Description(shared, {}).values))

    def _name(self, name: str, kind: str) -> bytes:
        encoded = field(0x2A, utf8(name)) + bytes((0x30, _KIND[kind]))
        return _keep(self._names, (name, kind), encoded)

    def _before_text(self, key: str, size: int) -> bytes:
        sizes = self._texts.get(key) or _keep(self._texts, key, {})
        return _keep(sizes, size, _before(key, head(0x0A, size), size))

    def _before_int(self, key: str, size: int) -> bytes:
        sizes = self._ints.get(key) or _keep(self._ints, key, {})
        return _keep(sizes, size, _before(key, b"\x18", size))

    def _before_double(self, key: str) -> bytes:
        return _keep(self._doubles, key, _before(key, b"\x21", 8))

    def _bool(self, key: str, value: bool) -> bytes:
        return _keep(self._bools, (key, value), encode_attributes(SPAN_TAG, {key: value}))

    def _list(self, key: str, value: AttributeValue) -> bytes:
        """Few lists are in use, such as those of one reason why an answer ended."""
        encoded = None
        if type(value) is list or type(value) is tuple:
            whole = (key, *value)
            encoded = self._lists.get(whole)
            if encoded is None and all(type(item) is str for item in value):
                return _keep(self._lists, whole, encode_attributes(SPAN_TAG, {key: value}))
        return encoded or encode_attributes(SPAN_TAG, {key: value})


class BatchEncoder:
    """Puts encoded spans of one process into requests."""

    def __init__(self, resource: Mapping[str, str]) -> None:
        self._resource = field(0x0A, encode_attributes(0x0A, resource))
        scope = field(0x0A, utf8(names.SCOPE)) + field(0x12, utf8(__version__))
        self._scope = field(0x0A, scope)

    def encode(self, spans: Sequence[bytes]) -> bytes:
        """An ExportTraceServiceRequest with what SpanEncoder made of each span, in that order."""
        scope_size = len(self._scope) + sum(map(len, spans))
        scope_head = head(0x12, scope_size)
        resource_head = head(0x0A, len(self._resource) + len(scope_head) + scope_size)
        return b"".join((resource_head, self._resource, scope_head, self._scope, *spans))


def _keep(kept: dict[_K, _V], key: _K, value: _V) -> _V:
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value
    return value


def _before(key: str, value_head: bytes, size: int) -> bytes:
    """What comes before a value of `size` bytes in an attribute; `value_head` is the head of its AnyValue's field."""
    name = field(0x0A, utf8(key))
    value = head(0x12, len(value_head) + size) + value_head
    return head(SPAN_TAG, len(name) + len(value) + size) + name + value


def _encode_event(event: SpanEvent) -> bytes:
    name, time_ns, attributes = event
    body = _TIME(0x09, time_ns) + field(0x12, utf8(name)) + encode_attributes(0x1A, attributes)
    return field(0x5A, body)
