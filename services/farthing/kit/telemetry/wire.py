"""Protobuf's wire format, as much as spans need. Written out by hand because messages cost more than their content."""

from __future__ import annotations

_INT64_MASK = (1 << 64) - 1
_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def field(tag: int, body: bytes) -> bytes:
    """A length-delimited field whose tag fits one byte."""
    return head(tag, len(body)) + body


def head(tag: int, size: int) -> bytes:
    """What comes before the body of a length-delimited field: tag and length."""
    if size < 0x80:
        return bytes((tag, size))
    if size < 0x4000:
        return bytes((tag, size & 0x7F | 0x80, size >> 7))
    return bytes((tag,)) + varint(size)


def varint(value: int) -> bytes:
    """An int64; negative numbers take ten bytes, longer ones lose their upper bits."""
    if 0 <= value < 0x4000:
        if value < 0x80:
            return _ONE_BYTE[value]
        return bytes((value & 0x7F | 0x80, value >> 7))
    if 0 < value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    rest, parts = value & _INT64_MASK, bytearray()
    while rest >= 0x80:
        parts.append(rest & 0x7F | 0x80)
        rest >>= 7
    parts.append(rest)
    return bytes(parts)


def utf8(text: str) -> bytes:
    """A lone surrogate (a broken header, say) becomes a question mark: it must not lose a span."""
    return text.encode("utf-8", "replace")
