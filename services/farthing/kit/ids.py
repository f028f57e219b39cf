"""Identifiers: time-ordered for rows (they keep B-trees dense), random for traces (W3C)."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32, lower case
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
_RANDOM_BITS = 80


def new_id(prefix: str) -> str:
    """Make a unique, time-ordered id such as "hold_01k…": 48 bits of milliseconds, 80 random bits, base32."""
    value = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | int.from_bytes(os.urandom(10))
    return f"{prefix}_" + "".join(
        _PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)
    )


def new_trace_id() -> str:
    """Make a W3C trace id: 32 hex digits, never all zero."""
    return os.urandom(16).hex()


def new_span_id() -> str:
    """Make a W3C span id: 16 hex digits, never all zero."""
    return os.urandom(8).hex()
