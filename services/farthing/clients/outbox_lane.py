"""One kind of outbox entry on its way out: a window in memory, the rest on disk, retries with back-off."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from farthing.kit.errors import FarthingError, InvalidArgument

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One thing to deliver. `id` is unique within its kind; receivers go by it, for redelivery happens."""

    sequence: int
    kind: str
    id: str
    payload: bytes
    append_time_ns: int


# Delivers entries of one kind, oldest first. Returns the ids that the receiver refused for good, each with the reason;
# the others are delivered. Raises when it is not known that they are: all are sent again later.
Deliver = Callable[[Sequence[Entry]], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Bounds of one kind's delivery."""

    max_batch_count: int = 512
    max_memory_count: int = 2048
    min_backoff_ms: int = 50
    max_backoff_ms: int = 5_000
    linger_ms: int = 100
    """How long the first entry waits for company: one call for many costs a router less than its own work."""


class Lane:
    """Delivers the entries of one kind in order.

    Entries up to `_loaded` have been taken into memory; those after it, up to `_highest`, are read
    from disk when memory has run dry.
    """

    def __init__(
        self,
        kind: str,
        limits: LaneLimits,
        load: Callable[[str, int], Awaitable[list[Entry]]],
        finish: Callable[[Sequence[Entry], Mapping[str, str]], None],
        jitter: Callable[[], float],
    ) -> None:
        self._kind, self._limits, self._jitter = kind, limits, jitter
        self._load, self._finish = load, finish
        self._ready: deque[Entry] = deque()
        self._under_way: Sequence[Entry] = ()
        self._loaded = self._highest = 0
        self._adopted_ns: int | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.delivered_count = 0
        self.retry_count = 0

    def adopt(self, highest: int, oldest_ns: int) -> None:
        """Take over entries on disk up to sequence `highest`."""
        self._highest, self._adopted_ns = highest, oldest_ns
        self._wake.set()

    def offer(self, entry: Entry) -> None:
        """Take an entry that has just been written."""
        is_next = self._loaded == self._highest
        self._highest = max(self._highest, entry.sequence)
        if is_next and len(self._ready) < self._limits.max_memory_count:
            self._ready.append(entry)
            self._loaded = entry.sequence
        self._wake.set()

    def oldest_ns(self) -> int | None:
        """When the oldest entry was appended; None when there is none."""
        if self._adopted_ns is not None:
            return self._adopted_ns
        for entries in (self._under_way, self._ready):
            if entries:
                return entries[0].append_time_ns
        return None

    def start(self, deliver: Deliver) -> None:
        """Deliver by `deliver` from now on."""
        if self._task is not None:
            raise ValueError(f"{self._kind} is being delivered already")
        self._task = asyncio.create_task(self._run(deliver), name=f"outbox-{self._kind}")

    async def stop(self) -> None:
        """Stop delivering; a delivery under way is cancelled and repeated after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, deliver: Deliver) -> None:
        while True:
            self._under_way = await self._persist(self._take)
            self._adopted_ns = None
            await self._deliver(deliver, self._under_way)
            self._under_way = ()

    async def _take(self) -> Sequence[Entry]:
        while True:
            if self._ready:
                if len(self._ready) < self._limits.max_batch_count:
                    await asyncio.sleep(self._limits.linger_ms / 1000)
                count = min(len(self._ready), self._limits.max_batch_count)
                return [self._ready.popleft() for _ in range(count)]
            if self._loaded < self._highest:
                highest = self._highest
                entries = await self._load(self._kind, self._loaded)
                self._loaded = entries[-1].sequence if entries else highest
                if entries:
                    return entries
                continue
            self._adopted_ns = None
            self._wake.clear()
            await self._wake.wait()

    async def _deliver(self, deliver: Deliver, entries: Sequence[Entry]) -> None:
        async def attempt() -> Mapping[str, str] | None:
            try:
                return await deliver(entries)
            except InvalidArgument as error:
                return {entries[0].id: error.message} if len(entries) == 1 else None

        refused = await self._persist(attempt)
        if refused is None:
            # One malformed entry must not hold up the rest for ever: find it by sending singly.
            for entry in entries:
                await self._deliver(deliver, [entry])
            return
        self._finish(entries, refused)
        self.delivered_count += len(entries) - len(refused)

    async def _persist(self, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
        failure_count = 0
        while True:
            try:
                answer = await attempt()
            except Exception as error:
                level = logging.DEBUG if failure_count else logging.WARNING
                _log.log(level, "%s: delivery failed, trying again: %s", self._kind, error)
                failure_count += 1
                self.retry_count += 1
                await asyncio.sleep(self._backoff_s(failure_count, error))
            else:
                if failure_count:
                    _log.info("%s: delivered after %d failures", self._kind, failure_count)
                return answer

    def _backoff_s(self, failure_count: int, error: Exception) -> float:
        growth = self._limits.min_backoff_ms << min(failure_count - 1, 20)
        wish_ms = error.retry_after_ms if isinstance(error, FarthingError) else 0
        bounded_ms = min(self._limits.max_backoff_ms, max(growth, wish_ms))
        # Half fixed, half random: senders that failed together do not come back together.
        return bounded_ms * (0.5 + 0.5 * self._jitter()) / 1000
