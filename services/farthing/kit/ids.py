"""Identifiers: time-ordered for rows (they keep B-trees dense), random for traces (W3C). None is a secret.

Hence `random`, seeded by the system and again after a fork: each read of os.urandom lets go of the interpreter's lock,
and a request that makes seven ids then waits up to seven times for background threads to give it back.
"""

from __future__ import annotations

import random
import time

_RANDOM_BITS = 80


def new_id(prefix: str) -> str:
    """Make a unique, time-ordered id such as "hold_019a…": 48 bits of milliseconds, 80 random bits, 32 hex digits."""
    value = (time.time_ns() // 1_000_000 << _RANDOM_BITS) | random.getrandbits(_RANDOM_BITS)
    return f"{prefix}_{value:032x}"


def new_trace_id() -> str:
    """Make a W3C trace id: 32 hex digits, never all zero."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """Make a W3C span id: 16 hex digits, never all zero."""
    return f"{random.getrandbits(64) or 1:016x}"
