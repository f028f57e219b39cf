"""What the kit offers to tests keeps its own promises."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from farthing.kit.clock import Clock, SystemClock
from farthing.kit.testing import FakeClock, eventually


def test_a_fake_clock_moves_all_its_hands_and_only_when_told() -> None:
    clock: Clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    before = (clock.now(), clock.time_ns(), clock.monotonic())
    assert (clock.now(), clock.time_ns(), clock.monotonic()) == before
    assert isinstance(clock, FakeClock)
    clock.advance(1.5)
    assert (clock.now() - before[0]).total_seconds() == 1.5
    assert clock.time_ns() - before[1] == 1_500_000_000
    assert clock.monotonic() - before[2] == 1.5
    assert clock.time_ns() == clock.now().timestamp() * 1e9


def test_the_system_clock_is_in_utc_and_agrees_with_itself() -> None:
    clock: Clock = SystemClock()
    early_ns, now, late_ns = clock.time_ns(), clock.now(), clock.time_ns()
    assert now.tzinfo is UTC
    assert early_ns // 1000 <= round(now.timestamp() * 1e6) <= late_ns // 1000 + 1
    assert clock.monotonic() <= clock.monotonic()


async def test_waiting_ends_with_the_first_truthy_value_or_says_what_was_missing() -> None:
    values = iter([0, "", "there"])
    assert await eventually(lambda: next(values)) == "there"
    with pytest.raises(AssertionError, match="the flag"):
        await eventually(lambda: False, timeout_s=0, what="the flag")
