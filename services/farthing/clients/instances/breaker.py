"""When an instance that fails is left alone, and when it is tried again. Pure: state and time in, state out."""

from __future__ import annotations

from dataclasses import dataclass, replace

FAILURES_TO_EJECT = 3
FIRST_EJECTION_S = 1.0
LONGEST_EJECTION_S = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Evidence of the data path on one instance. Times are monotonic seconds."""

    failure_count: int = 0
    ejection_count: int = 0
    ejected_until: float = 0.0

    def ejected(self, now: float) -> bool:
        """Whether the instance is left alone. After the time one request may try it (half open)."""
        return now < self.ejected_until


def record_success(breaker: Breaker) -> Breaker:
    """An answer came: all is forgiven."""
    return Breaker() if breaker.failure_count or breaker.ejection_count else breaker


def record_failure(breaker: Breaker, now: float) -> Breaker:
    """A call failed for the instance's own reasons. Three in a row eject it, longer each time; half open, one does.

    Calls that were on their way when it was ejected say nothing new.
    """
    if breaker.ejected(now):
        return breaker
    failures = breaker.failure_count + 1
    half_open = breaker.ejection_count > 0
    if failures < FAILURES_TO_EJECT and not half_open:
        return replace(breaker, failure_count=failures)
    span = min(FIRST_EJECTION_S * 2**breaker.ejection_count, LONGEST_EJECTION_S)
    return Breaker(0, breaker.ejection_count + 1, now + span)
