"""One kind of outbox entry on its way out: a window in memory, the rest on disk, retries with back-off."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from farthing.kit.errors import FarthingError, InvalidArgument
from farthing.kit.journal import Backlog, Entry, Journal, Position

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)

# Delivers entries of one kind, oldest first. Returns those that the receiver refused for good, by sequence, each with
# the reason; the others are delivered. Raises when it is not known that they are: all are sent again later.
Deliver = Callable[[Sequence[Entry]], Awaitable[Mapping[int, str]]]


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

    The oldest are in memory. When there are too many, those behind them are counted only, and read from the
    journal, `_cursor` onwards, when memory has run dry.
    """

    def __init__(
        self,
        kind: str,
        limits: LaneLimits,
        journal: Journal,
        *,
        finish: Callable[[Sequence[Entry], Mapping[int, str]], None],
        lose: Callable[[int], None],
        jitter: Callable[[], float],
    ) -> None:
        self._kind, self._limits, self._journal = kind, limits, journal
        self._finish, self._lose, self._jitter = finish, lose, jitter
        self._max_memory_count = limits.max_memory_count
        self._ready: deque[Entry] = deque()
        self._under_way: Sequence[Entry] = ()
        self._cursor: Position | None = None
        self._behind_count = self._behind_time_ns = 0
        self._taken_sequence = 0
        self._idle: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.delivered_count = 0
        self.retry_count = 0

    def adopt(self, backlog: Backlog) -> None:
        """Take over what an earlier process left."""
        self._cursor, self._behind_count = backlog.position, backlog.count
        self._taken_sequence, self._behind_time_ns = (
            backlog.after_sequence,
            backlog.oldest_time_ns,
        )

    def offer(self, entry: Entry, position: Position) -> None:
        """Take an entry that has just been written, at or behind `position`."""
        if self._cursor is None:
            if len(self._ready) < self._max_memory_count:
                self._ready.append(entry)
                if self._idle is not None:
                    self._wake()
                return
            self._cursor, self._behind_time_ns = position, entry.append_time_ns
        self._behind_count += 1

    def oldest_ns(self) -> int | None:
        """When the oldest entry was appended, or a time before; None when there is none. Any thread may ask."""
        for entries in (self._under_way, self._ready):
            try:
                return entries[0].append_time_ns
            except IndexError:
                continue
        return self._behind_time_ns if self._behind_count else None

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

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def _run(self, deliver: Deliver) -> None:
        while True:
            self._under_way = await self._persist(self._take)
            await self._deliver(deliver, self._under_way)
            self._under_way = ()

    async def _take(self) -> Sequence[Entry]:
        limit = self._limits.max_batch_count
        while True:
            if self._ready:
                if len(self._ready) < limit:
                    await asyncio.sleep(self._limits.linger_ms / 1000)
                count = min(len(self._ready), limit)
                entries = [self._ready.popleft() for _ in range(count)]
            elif self._cursor is not None:
                # A long backlog is read piece by piece: others run in between, whatever the receiver does.
                await asyncio.sleep(0)
                entries = self._read_back(self._cursor, limit)
            else:
                self._idle = asyncio.get_running_loop().create_future()
                await self._idle
                continue
            if entries:
                self._taken_sequence = entries[-1].sequence
                return entries

    def _read_back(self, cursor: Position, limit: int) -> list[Entry]:
        entries, rest = self._journal.read(self._kind, self._taken_sequence, cursor, limit)
        self._behind_count -= len(entries)
        if entries:
            self._behind_time_ns = entries[-1].append_time_ns
        if rest is None and self._behind_count:
            lost, self._behind_count = self._behind_count, 0
            self._lose(lost)
        self._cursor = rest if self._behind_count else None
        return entries

    async def _deliver(self, deliver: Deliver, entries: Sequence[Entry]) -> None:
        async def attempt() -> bool:
            try:
                refused = await deliver(entries)
            except InvalidArgument as error:
                if len(entries) > 1:
                    return False
                refused = {entries[0].sequence: error.message}
            self._finish(entries, refused)
            self.delivered_count += len(entries) - len(refused)
            return True

        if not await self._persist(attempt):
            # One malformed entry must not hold up the rest for ever: find it by sending singly.
            for entry in entries:
                await self._deliver(deliver, [entry])

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
