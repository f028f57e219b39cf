"""Joins messages that are encoded already into one that repeats them, without decoding and encoding again."""

from __future__ import annotations

from collections.abc import Iterable


def repeat_field_one(payloads: Iterable[bytes]) -> bytes:
    """The encoding of a message whose field 1 repeats the given encoded messages."""
    parts: list[bytes] = []
    for payload in payloads:
        size, head = len(payload), bytearray(b"\x0a")
        while size >= 0x80:
            head.append(size & 0x7F | 0x80)
            size >>= 7
        head.append(size)
        parts += (bytes(head), payload)
    return b"".join(parts)


def as_it_is(message: bytes) -> bytes:
    """A request serializer for messages that are bytes already."""
    return message
