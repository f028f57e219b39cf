"""Records as they lie in a segment: a mark, length and checksum, then an entry or an acknowledgement."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_NAME_LENGTH = 512  # characters of kind and id together

# None of these bytes occurs in UTF-8, so no text that a caller chose looks like the start of a record.
_MARK = b"\xf5\xfa\xf8\xff"
_HEAD = struct.Struct("<4sII")  # mark, length of the body, CRC32 of the body
_ENTRY = struct.Struct("<BQqHH")  # type, sequence, append_time_ns, bytes of kind, bytes of id
_DONE = struct.Struct("<BQ")  # type, sequence; the kind follows
_TYPE_ENTRY, _TYPE_DONE, _LAST = 1, 2, 0x80
_pack_head, _pack_entry, _checksum = _HEAD.pack, _ENTRY.pack, zlib.crc32
# The largest: every character of the name has four bytes.
MAX_RECORD_BYTES = _HEAD.size + _ENTRY.size + 4 * MAX_NAME_LENGTH + MAX_PAYLOAD_BYTES


class Entry(NamedTuple):
    """One thing to deliver. `sequence` is its own; receivers go by `id`, for redelivery happens."""

    sequence: int
    kind: str
    id: str
    payload: bytes
    append_time_ns: int


class Done(NamedTuple):
    """All entries of `kind` up to `sequence` need no delivery any more."""

    kind: str
    sequence: int


class Found(NamedTuple):
    """Where a whole record lies. `is_last`: what was written together ends with it."""

    start: int
    end: int
    is_last: bool


def encode_write(entries: Sequence[Entry], done: Mapping[str, int]) -> bytes:
    """The records of one write. A reader takes all of them or, when the last is missing, none.

    Every request pays for this: it does no more than it must.
    """
    parts: list[bytes] = []
    left = len(entries) + len(done)
    for kind, sequence in done.items():
        left -= 1
        body = _DONE.pack(_TYPE_DONE if left else _TYPE_DONE | _LAST, sequence) + kind.encode()
        parts += (_pack_head(_MARK, len(body), _checksum(body)), body)
    for sequence, kind, entry_id, payload, time_ns in entries:
        left -= 1
        name = kind.encode()
        try:
            own = entry_id.encode()
        except (
            UnicodeEncodeError
        ):  # half of a surrogate pair must not cost the others their place
            own = entry_id.encode("utf-8", "surrogatepass")
        type_ = _TYPE_ENTRY if left else _TYPE_ENTRY | _LAST
        body = _pack_entry(type_, sequence, time_ns, len(name), len(own)) + name + own + payload
        parts.append(_pack_head(_MARK, len(body), _checksum(body)))
        parts.append(body)
    return b"".join(parts)


def decode(data: bytes, found: Found) -> Entry | Done:
    """The record at `found`."""
    start = found.start + _HEAD.size
    if data[start] & ~_LAST == _TYPE_DONE:
        _, sequence = _DONE.unpack_from(data, start)
        return Done(data[start + _DONE.size : found.end].decode(), sequence)
    _, sequence, time_ns, kind_bytes, id_bytes = _ENTRY.unpack_from(data, start)
    kind_at = start + _ENTRY.size
    id_at = kind_at + kind_bytes
    payload_at = id_at + id_bytes
    return Entry(
        sequence,
        data[kind_at:id_at].decode(),
        data[id_at:payload_at].decode("utf-8", "surrogatepass"),
        data[payload_at : found.end],
        time_ns,
    )


def scan(data: bytes, start: int = 0) -> Iterator[Found]:
    """The whole records of `data` from `start` on. What lies between two of them is damaged."""
    view = memoryview(data)
    while (start := data.find(_MARK, start)) >= 0:
        end = _end_of(view, start)
        if end:
            yield Found(start, end, bool(data[start + _HEAD.size] & _LAST))
            start = end
        else:
            start += 1


def is_cut_off(data: bytes, start: int) -> bool:
    """Whether `data` from `start` on is the beginning of a record whose end is missing: a write that was killed."""
    rest = data[start : start + _HEAD.size]
    if len(rest) < _HEAD.size:
        return rest[: len(_MARK)] == _MARK[: len(rest)]
    mark, length, _ = _HEAD.unpack(rest)
    return bool(
        mark == _MARK and length <= MAX_RECORD_BYTES and start + _HEAD.size + length > len(data)
    )


def _end_of(view: memoryview, start: int) -> int:
    """Where the record that starts at `start` ends; 0 when there is no whole one."""
    body = start + _HEAD.size
    if body >= len(view):
        return 0
    _, length, checksum = _HEAD.unpack_from(view, start)
    end: int = body + length
    if not _DONE.size < length <= MAX_RECORD_BYTES or end > len(view):
        return 0
    return end if zlib.crc32(view[body:end]) == checksum else 0
