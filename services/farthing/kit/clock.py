"""Where time comes from, so that everything else can be told it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time. Cores never hold one: shells read it and pass `now`."""

    def now(self) -> datetime:
        """The wall clock, UTC, timezone-aware."""
        ...

    def time_ns(self) -> int:
        """The wall clock, nanoseconds since 1970."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for spans of time."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """See Clock."""
        return datetime.now(UTC)

    def time_ns(self) -> int:
        """See Clock."""
        return time.time_ns()

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()
