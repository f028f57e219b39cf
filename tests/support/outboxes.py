"""Outboxes of a test, closed at its end, and a receiver that can be down or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from farthing.clients.outbox import Entry, LaneLimits, Outbox
from farthing.kit.clock import Clock
from farthing.kit.durability import Synchronous
from farthing.kit.errors import InvalidArgument, Unavailable
from farthing.kit.testing import FakeClock

FAST = LaneLimits(
    max_batch_count=4, max_memory_count=8, min_backoff_ms=1, max_backoff_ms=5, linger_ms=1
)


class Receiver:
    """Keeps what it is sent; can be down, and can refuse ids."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.call_count = 0
        self.is_down = False
        self.refused: dict[str, str] = {}
        self.malformed: set[str] = set()

    async def deliver(self, entries: Sequence[Entry]) -> Mapping[int, str]:
        """Implements Deliver."""
        self.call_count += 1
        if self.is_down:
            raise Unavailable("down", reason="DOWN")
        if any(entry.id in self.malformed for entry in entries):
            raise InvalidArgument("cannot be read", field="payload")
        self.entries += [entry for entry in entries if entry.id not in self.refused]
        return {e.sequence: self.refused[e.id] for e in entries if e.id in self.refused}

    @property
    def ids(self) -> list[str]:
        """In the order of arrival."""
        return [entry.id for entry in self.entries]


class Outboxes:
    """Opens outboxes in one directory, one after the other."""

    def __init__(
        self, directory: Path, synchronous: Synchronous, stack: AsyncExitStack
    ) -> None:
        self.directory, self._synchronous, self._stack = directory, synchronous, stack

    async def open(
        self,
        *,
        max_entry_count: int = 1000,
        limits: LaneLimits = FAST,
        clock: Clock | None = None,
    ) -> Outbox:
        """The outbox as it is on disk now."""
        outbox = Outbox(
            self.directory,
            clock=clock or FakeClock(),
            limits=limits,
            max_entry_count=max_entry_count,
            synchronous=self._synchronous,
            jitter=lambda: 0.0,
        )
        self._stack.push_async_callback(outbox.close)
        await outbox.open()
        return outbox


async def drain(outbox: Outbox) -> None:
    """Wait until everything is delivered, a while."""
    async with asyncio.timeout(20):
        await outbox.drained()
