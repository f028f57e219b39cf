"""A durable outbox: what must reach another service is on disk first and leaves only when that service has it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farthing.clients.outbox_lane import Deliver, Lane, LaneLimits
from farthing.clients.outbox_refused import RefusedFile
from farthing.clients.outbox_rounds import SyncRounds
from farthing.kit.clock import Clock
from farthing.kit.durability import Synchronous
from farthing.kit.errors import FarthingError, InvalidArgument, ResourceExhausted
from farthing.kit.journal import MAX_NAME_LENGTH, MAX_PAYLOAD_BYTES, Entry, Journal, Position

__all__ = ["Deliver", "Entry", "LaneLimits", "Outbox", "OutboxStats"]

_RETRY_S = 1.0
_new = tuple.__new__
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxStats:
    """Where an outbox stands. Counts other than `depth_count` are since the process started."""

    depth_count: int
    oldest_age_ms: int
    delivered_count: int
    refused_count: int
    retry_count: int


class Outbox:
    """Appends durably, delivers in the background, in order per kind, at least once.

    `append` queues and returns: the write follows at the end of this turn of the loop, or with the next
    `append_durable` if that is earlier. `append_durable` returns when the entry survives the death of this process
    (the loss of power too, if `synchronous` is full); everything appended before it does then too. Use it
    before a client is told of what the entry pays for. Entries written together are kept together or not at all.
    Ids are not compared: an entry appended twice is delivered twice, and the receiver tells.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        max_entry_count: int = 100_000,
        limits: LaneLimits | None = None,
        synchronous: Synchronous = "normal",
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock, self._jitter = clock, jitter
        self._max_entry_count = max_entry_count
        self._limits = limits or LaneLimits()
        self._journal = Journal(directory)
        self._refused = RefusedFile(directory / "refused.jsonl", synchronous=synchronous)
        self._rounds: SyncRounds | None = None
        if synchronous == "full":
            self._rounds = SyncRounds(
                self._journal, take=self._take_queued, accept=self._accept, reject=self._reject
            )
        self._lanes: dict[str, Lane] = {}
        self._next_sequence = 1
        self._queued: list[Entry] = []
        # The first so many of `_queued` could not be written, and nobody was told that they are not kept.
        self._overdue_count = 0
        self._is_scheduled = self._is_closed = False
        self._retry: asyncio.TimerHandle | None = None
        self._depth_count = self._refused_count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self) -> None:
        """Open the directory and take up what an earlier process left in it.

        FailedPrecondition when another process has it, Unavailable when it cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        for backlog in await self._journal.open():
            self._lane(backlog.kind).adopt(backlog)
            self._depth_count += backlog.count
            self._empty.clear()
        self._next_sequence = self._journal.next_sequence

    def attach(self, kind: str, deliver: Deliver) -> None:
        """Start delivering entries of `kind`, those left from before first."""
        self._lane(kind).start(deliver)

    def append(self, kind: str, entry_id: str, payload: bytes) -> None:
        """Queue an entry. ResourceExhausted when the outbox is full: nothing is queued then.

        When the disk refuses it, it stays queued and is tried again; but if it was to be written together with a
        durable one, it is dropped with that one, and logged.
        """
        self._admit(kind, entry_id, payload)
        self._schedule()

    async def append_durable(self, kind: str, entry_id: str, payload: bytes) -> None:
        """As `append`, returning once the entry is on disk. Unavailable when the disk refuses: it is not kept then."""
        self._admit(kind, entry_id, payload)
        if self._rounds is None:
            self._write(has_waiter=True)
            return
        safe = self._rounds.join(has_entry=True)
        self._schedule()
        await safe

    async def flush(self) -> None:
        """Return when everything appended so far is on disk. Unavailable when the disk refuses; it is tried again."""
        if self._rounds is None:
            self._write(has_waiter=False)
            return
        safe = self._rounds.join(has_entry=False)
        self._rounds.begin()
        await safe

    async def drained(self) -> None:
        """Return when everything has been delivered. Bound the wait with asyncio.timeout."""
        await self._empty.wait()

    def require_room(self, count: int = 1) -> None:
        """ResourceExhausted unless `count` more entries fit. Ask before work that will need to be recorded."""
        if self._depth_count + count > self._max_entry_count:
            raise ResourceExhausted(
                f"{self._depth_count} records wait to be delivered; the receiver is down or too slow",
                reason="OUTBOX_FULL",
                metadata={"depth_count": str(self._depth_count)},
                retry_after_ms=self._limits.max_backoff_ms,
            )

    def stats(self) -> OutboxStats:
        """Where the outbox stands now."""
        oldest = [ns for lane in self._lanes.values() if (ns := lane.oldest_ns()) is not None]
        age_ns = self._clock.time_ns() - min(oldest) if oldest else 0
        return OutboxStats(
            depth_count=self._depth_count,
            oldest_age_ms=max(0, age_ns // 1_000_000),
            delivered_count=sum(lane.delivered_count for lane in self._lanes.values()),
            refused_count=self._refused_count,
            retry_count=sum(lane.retry_count for lane in self._lanes.values()),
        )

    async def close(self) -> None:
        """Stop delivering, write what is queued, close the files. What is left goes out after the next start.

        May be called twice.
        """
        if self._is_closed:
            return
        for lane in self._lanes.values():
            await lane.stop()
        try:
            await self.flush()
        except FarthingError as error:
            for entry in self._queued:
                _log_lost(entry, error)
        self._is_closed = True
        if self._rounds is not None:
            await self._rounds.close()
        if self._retry is not None:
            self._retry.cancel()
        self._journal.close()

    def _lane(self, kind: str) -> Lane:
        if kind not in self._lanes:
            self._lanes[kind] = Lane(
                kind,
                self._limits,
                self._journal,
                finish=self._finish,
                lose=self._lose,
                jitter=self._jitter,
            )
        return self._lanes[kind]

    def _admit(self, kind: str, entry_id: str, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvalidArgument(
                f"a record of {len(payload)} bytes is over {MAX_PAYLOAD_BYTES}",
                field="payload",
            )
        if len(kind) + len(entry_id) > MAX_NAME_LENGTH:
            raise InvalidArgument(
                f"kind and id have {len(kind) + len(entry_id)} characters, over {MAX_NAME_LENGTH}",
                field="entry_id",
            )
        depth = self._depth_count
        if depth >= self._max_entry_count:
            self.require_room()
        if not depth:
            self._empty.clear()
        self._depth_count = depth + 1
        sequence = self._next_sequence
        self._next_sequence = sequence + 1
        # As Entry(…) does, in less than half the time: each request makes two.
        self._queued.append(
            _new(Entry, (sequence, kind, entry_id, payload, self._clock.time_ns()))
        )

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._write_scheduled)

    def _write_scheduled(self) -> None:
        self._is_scheduled = False
        if self._rounds is not None:
            self._rounds.begin()
            return
        try:
            self._write(has_waiter=False)
        except FarthingError:
            return  # `_reject` has seen to it

    def _write(self, *, has_waiter: bool) -> None:
        entries = self._queued
        if not entries and not self._journal.has_unwritten:
            return
        try:
            position = self._journal.write(entries)
        except FarthingError as error:
            self._reject(self._take_queued(), has_waiter, error)
            raise
        self._queued = []
        self._accept(entries, position)

    def _take_queued(self) -> list[Entry]:
        entries, self._queued = self._queued, []
        return entries

    def _accept(self, entries: Sequence[Entry], position: Position) -> None:
        self._overdue_count = 0
        lanes = self._lanes
        for entry in entries:
            lane = lanes.get(entry.kind)
            (lane or self._lane(entry.kind)).offer(entry, position)

    def _reject(self, entries: list[Entry], has_waiter: bool, error: BaseException) -> None:
        """Queue again what could not be written, or drop it with the entry whose appender is told so."""
        kept = entries[: self._overdue_count] if has_waiter else entries
        if self._is_closed:
            kept = []
        for entry in entries[len(kept) :]:
            _log_lost(entry, error)
        self._forget(len(entries) - len(kept))
        self._queued[:0] = kept
        if kept and not self._overdue_count:
            _log.error("records wait in memory for the disk: %s", error)
        self._overdue_count = len(kept)
        if self._retry is None and not self._is_closed:
            self._retry = self._loop.call_later(_RETRY_S, self._write_again)

    def _write_again(self) -> None:
        self._retry = None
        self._write_scheduled()

    def _finish(self, entries: Sequence[Entry], refused: Mapping[int, str]) -> None:
        if refused:
            dead = [
                (entry, refused[entry.sequence])
                for entry in entries
                if entry.sequence in refused
            ]
            self._refused.add(dead, refuse_time_ns=self._clock.time_ns())
            for entry, reason in dead:
                _log.error("%s %s was refused for good: %s", entry.kind, entry.id, reason)
            self._refused_count += len(dead)
        self._journal.acknowledge(entries[-1].kind, entries[-1].sequence)
        self._forget(len(entries))
        self._schedule()

    def _lose(self, count: int) -> None:
        _log.error("%d records on disk cannot be read any more and are lost", count)
        self._forget(count)

    def _forget(self, count: int) -> None:
        self._depth_count -= count
        if not self._depth_count:
            self._empty.set()


def _log_lost(entry: Entry, error: BaseException) -> None:
    _log.error("the record %s %s was not kept: %s", entry.kind, entry.id, error)
