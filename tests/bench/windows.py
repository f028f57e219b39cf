"""One variant in one round: a closed loop of calls, their latencies, and the CPU of the processes that serve them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.processes import cpu_seconds

Call = Callable[[], Awaitable[Any]]


@dataclass
class Window:
    """What was seen; `cpu_us` has the CPU of each process, in the order they were given."""

    calls: int = 0
    cpu_us: tuple[float, ...] = ()
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def cpu_us_per_call(self) -> float:
        return sum(self.cpu_us) / max(1, self.calls)

    def part_us_per_call(self, *places: int) -> float:
        """CPU of some of the processes, by their places."""
        return sum(self.cpu_us[place] for place in places) / max(1, self.calls)

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies_ms)


async def measure(
    call: Call, pids: Sequence[int], *, concurrency: int, seconds: float, after_s: float = 0.0
) -> Window:
    """Closed loop for so long. CPU counts for `after_s` more, for what the calls leave to be done."""
    window, deadline = Window(), time.monotonic() + seconds
    before = [cpu_seconds(pid) for pid in pids]

    async def worker() -> None:
        while time.monotonic() < deadline:
            started = time.perf_counter()
            await call()
            window.latencies_ms.append((time.perf_counter() - started) * 1e3)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    await asyncio.sleep(after_s)
    window.cpu_us = tuple(
        (cpu_seconds(pid) - seconds_before) * 1e6
        for pid, seconds_before in zip(pids, before, strict=True)
    )
    window.calls = len(window.latencies_ms)
    return window


async def measure_together(
    variants: Sequence[tuple[Call, int]], *, concurrency: int, seconds: float, after_s: float
) -> list[Window]:
    """A window of each call and the process that serves it, all at once: whatever the host does meets all."""
    return await asyncio.gather(
        *(
            measure(call, [pid], concurrency=concurrency, seconds=seconds, after_s=after_s)
            for call, pid in variants
        )
    )


def median_ratio(
    over: Sequence[Window], under: Sequence[Window], pick: Callable[[Window], float]
) -> float:
    """The median over rounds of a ratio within one round."""
    return statistics.median(pick(a) / pick(b) for a, b in zip(over, under, strict=True))


def median_of(windows: Sequence[Window], pick: Callable[[Window], float]) -> float:
    """The median over rounds."""
    return statistics.median(pick(window) for window in windows)
