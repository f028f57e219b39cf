"""A clock that moves only when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Implements kit.clock.Clock. Starts at `start`, default 2026-01-01 00:00 UTC."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed_ns = 0

    def now(self) -> datetime:
        """See Clock."""
        return self._start + timedelta(microseconds=self._elapsed_ns // 1000)

    def time_ns(self) -> int:
        """See Clock."""
        return int(self._start.timestamp()) * 1_000_000_000 + self._elapsed_ns

    def monotonic(self) -> float:
        """See Clock."""
        return self._elapsed_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Move time forward."""
        self._elapsed_ns += round(seconds * 1e9)
