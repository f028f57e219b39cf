"""Keeps transfers below a rate: how long to wait is a pure function of what was sent before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

_BURST_S = 0.25
_LARGEST_CHUNK_BYTES = 1 << 20
_SMALLEST_CHUNK_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket of `bytes_per_s` (0: no limit) that holds a quarter of a second's worth, as a value.

    `paid_until_s` is when everything sent so far will have been paid for at that rate.
    """

    bytes_per_s: int
    paid_until_s: float = -math.inf

    @property
    def chunk_bytes(self) -> int:
        """How much to send at a time, so that nobody waits for long."""
        if not self.bytes_per_s:
            return _LARGEST_CHUNK_BYTES
        wanted = int(self.bytes_per_s * _BURST_S)
        return min(max(wanted, _SMALLEST_CHUNK_BYTES), _LARGEST_CHUNK_BYTES)

    def pay(self, count_bytes: int, now_s: float) -> tuple[Rate, float]:
        """The bucket after so many bytes, and the seconds to wait before the next ones."""
        if not self.bytes_per_s:
            return self, 0.0
        start_s = max(self.paid_until_s, now_s - _BURST_S)
        until_s = start_s + count_bytes / self.bytes_per_s
        return replace(self, paid_until_s=until_s), max(0.0, until_s - now_s)


class Throttle:
    """Pays for what one transfer after the other reads, and waits. One thread at a time."""

    def __init__(
        self,
        bytes_per_s: int = 0,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = Rate(bytes_per_s)
        self._now_s, self._sleep = now_s, sleep

    @property
    def chunk_bytes(self) -> int:
        """How much to read at a time."""
        return self._rate.chunk_bytes

    def pay(self, count_bytes: int) -> None:
        """Call it after so many bytes have come; returns when more may."""
        self._rate, wait_s = self._rate.pay(count_bytes, self._now_s())
        if wait_s > 0:
            self._sleep(wait_s)
