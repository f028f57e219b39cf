"""Which keys a cache may hold: their prefixes, and a Bloom filter over them that never denies a key it was given."""

from __future__ import annotations

import hashlib
import struct

from farthing.kit.errors import InvalidArgument

PREFIX_BYTES = 8
_HALVES = struct.Struct("<II")
_PROBE_COUNT = 6
_BITS_PER_KEY = 16  # with 6 probes, one key in a thousand is taken for one that is held
_CROWDED_BITS_PER_KEY = 8  # one in fifty
_LEAST_BYTES = 64 * 1024
_MOST_BYTES = 4 * 1024 * 1024


def prefix_of(tenant_id: str, request_hash: bytes) -> bytes:
    """8 bytes that stand for an entry's key, names left out; see WatchKeysResponse in cache.proto."""
    return hashlib.sha256(tenant_id.encode() + b"\0" + request_hash).digest()[:PREFIX_BYTES]


class KeyFilter:
    """A set of prefixes in 64 KiB to 4 MiB, with room for `expected_count` of them at 16 bits each.

    `in` is True for every prefix that was added, and wrongly so for about one other in a thousand; more when many more
    than expected were added (see `crowded`), or more than the 2 million for which 4 MiB is enough.
    """

    __slots__ = ("_bits", "_mask", "key_count")

    def __init__(self, expected_count: int = 0) -> None:
        size_bytes = _LEAST_BYTES
        while size_bytes < _MOST_BYTES and size_bytes * 8 < expected_count * _BITS_PER_KEY:
            size_bytes *= 2
        self._bits = bytearray(size_bytes)
        self._mask = size_bytes * 8 - 1
        self.key_count = 0

    @property
    def size_bytes(self) -> int:
        """Memory taken."""
        return len(self._bits)

    @property
    def crowded(self) -> bool:
        """True when a new filter, made larger, would be wrong less often."""
        bit_count = self.size_bytes * 8
        return (
            self.size_bytes < _MOST_BYTES and self.key_count * _CROWDED_BITS_PER_KEY > bit_count
        )

    def add(self, prefix: bytes) -> None:
        """Add one prefix of 8 bytes."""
        self._add(*_HALVES.unpack(prefix))

    def add_all(self, prefixes: bytes) -> None:
        """Add prefixes that stand one after the other. InvalidArgument when the last one is not whole."""
        if len(prefixes) % PREFIX_BYTES:
            raise InvalidArgument(
                f"key_prefixes has {len(prefixes)} bytes; send {PREFIX_BYTES} for each key",
                field="key_prefixes",
            )
        for place, step in _HALVES.iter_unpack(prefixes):
            self._add(place, step)

    def __contains__(self, prefix: bytes) -> bool:
        bits, mask = self._bits, self._mask
        place, step = _HALVES.unpack(prefix)
        step |= 1
        for _ in range(_PROBE_COUNT):
            bit = place & mask
            if not bits[bit >> 3] >> (bit & 7) & 1:
                return False
            place += step
        return True

    def _add(self, place: int, step: int) -> None:
        bits, mask = self._bits, self._mask
        step |= 1  # odd, so that the probes of one prefix are all different places
        new = 0
        for _ in range(_PROBE_COUNT):
            bit = place & mask
            index, flag = bit >> 3, 1 << (bit & 7)
            held = bits[index]
            if not held & flag:
                bits[index] = held | flag
                new = 1
            place += step
        self.key_count += new
