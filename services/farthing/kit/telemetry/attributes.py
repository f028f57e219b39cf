"""Attributes of spans: a span's own, and those that many spans share, which are encoded only once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from farthing.kit.telemetry.wire import field, utf8, varint

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]

SPAN_TAG = 0x4A  # field 9 of a span
_DOUBLE = struct.Struct("<Bd").pack


class SharedAttributes:
    """Attributes that come back in many spans, as those of a method or of an instance do: make it once and keep it."""

    __slots__ = ("encoded", "values")

    def __init__(self, values: Attributes) -> None:
        self.values: Attributes = dict(values)
        self.encoded = encode_attributes(SPAN_TAG, values)


class Description(NamedTuple):
    """Attributes in two parts. Where both have a name, the span's own stands."""

    shared: tuple[SharedAttributes, ...]
    own: Attributes

    @property
    def values(self) -> dict[str, AttributeValue]:
        """All of them."""
        merged: dict[str, AttributeValue] = {}
        for group in self.shared:
            merged.update(group.values)
        merged.update(self.own)
        return merged


# Attributes that are put together when a span is drained.
Deferred = Callable[[], Attributes | Description]


def encode_attributes(tag: int, attributes: Attributes) -> bytes:
    """A field of KeyValues in OTLP. Takes its time: for what is encoded once, or seldom."""
    return b"".join(
        [
            field(tag, field(0x0A, utf8(key)) + field(0x12, _any_value(value)))
            for key, value in attributes.items()
        ]
    )


def _any_value(value: AttributeValue) -> bytes:
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if isinstance(value, str):
        return field(0x0A, utf8(value))
    return field(0x2A, b"".join([field(0x0A, _any_value(item)) for item in value]))
