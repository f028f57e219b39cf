"""A durable outbox: what must reach another service is on disk first and leaves only when that service has it."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from farthing.clients.outbox_lane import Deliver, Entry, Lane, LaneLimits
from farthing.kit.clock import Clock
from farthing.kit.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from farthing.kit.sqlite_writer import SqliteWriter, Synchronous

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entry (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    payload BLOB NOT NULL,
    append_time_ns INTEGER NOT NULL,
    UNIQUE (kind, id)
);
CREATE TABLE IF NOT EXISTS refused (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    payload BLOB NOT NULL,
    append_time_ns INTEGER NOT NULL,
    refuse_time_ns INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (kind, id)
)
"""

__all__ = ["Deliver", "Entry", "LaneLimits", "Outbox", "OutboxStats"]

_MAX_PAYLOAD_BYTES = 256 * 1024
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

    `append` queues and returns: the write follows within the next group commit, in order.
    `append_durable` returns when the entry survives the death of this process; everything appended
    before it does then too. Use it before a client is told of what the entry pays for.
    """

    def __init__(
        self,
        path: Path,
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
        self._writer = SqliteWriter(path, schema=_SCHEMA, synchronous=synchronous)
        self._lanes: dict[str, Lane] = {}
        self._next_sequence = 1
        self._queued: list[tuple[Entry, asyncio.Future[None]]] = []
        self._depth_count = 0
        self._refused_count = 0
        self._empty = asyncio.Event()

    async def open(self) -> None:
        """Open the file and take up what an earlier process left in it."""
        await self._writer.open()
        rows = await self._writer.run(
            lambda db: db.execute(
                "SELECT kind, COUNT(*), MAX(sequence), MIN(append_time_ns) FROM entry GROUP BY kind"
            ).fetchall()
        )
        for kind, count, highest, oldest_ns in rows:
            self._lane(kind).adopt(highest, oldest_ns)
            self._depth_count += count
            self._next_sequence = max(self._next_sequence, highest + 1)
        self._note_depth()

    def attach(self, kind: str, deliver: Deliver) -> None:
        """Start delivering entries of `kind`, those left from before first."""
        self._lane(kind).start(deliver)

    def append(self, kind: str, entry_id: str, payload: bytes) -> None:
        """Queue an entry. ResourceExhausted when the outbox is full: nothing is queued then.

        The same id with the same payload is kept once; with another payload the first stays, and
        the second is logged as an error.
        """
        self._queue(self._admit(kind, entry_id, payload)).add_done_callback(_log_failure)

    async def append_durable(self, kind: str, entry_id: str, payload: bytes) -> None:
        """As `append`, returning once the entry is on disk.

        AlreadyExists for the same id with another payload, Unavailable when the disk refuses.
        """
        # Shielded: a caller that goes away must not undo the write.
        stored = self._queue(self._admit(kind, entry_id, payload))
        self._write_queued()
        await asyncio.shield(stored)

    async def flush(self) -> None:
        """Return when everything appended so far is on disk."""
        self._write_queued()
        await self._writer.run(lambda db: None)

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
        """Stop delivering, write what is queued, close the file. What is left goes out after the next start."""
        self._write_queued()
        for lane in self._lanes.values():
            await lane.stop()
        await self._writer.close()

    def _lane(self, kind: str) -> Lane:
        if kind not in self._lanes:
            self._lanes[kind] = Lane(kind, self._limits, self._load, self._finish, self._jitter)
        return self._lanes[kind]

    def _admit(self, kind: str, entry_id: str, payload: bytes) -> Entry:
        if len(payload) > _MAX_PAYLOAD_BYTES:
            raise InvalidArgument(
                f"a record of {len(payload)} bytes is over {_MAX_PAYLOAD_BYTES}",
                field="payload",
            )
        self.require_room()
        entry = Entry(self._next_sequence, kind, entry_id, payload, self._clock.time_ns())
        self._next_sequence += 1
        self._depth_count += 1
        self._note_depth()
        return entry

    def _queue(self, entry: Entry) -> asyncio.Future[None]:
        """Have `entry` written with what else comes in this turn of the loop, or with the next durable one."""
        loop = asyncio.get_running_loop()
        if not self._queued:
            loop.call_soon(self._write_queued)
        stored: asyncio.Future[None] = loop.create_future()
        self._queued.append((entry, stored))
        return stored

    def _write_queued(self) -> None:
        if not self._queued:
            return
        queued, self._queued = self._queued, []
        entries = [entry for entry, _ in queued]
        written = self._writer.submit(lambda db: [_insert(db, entry) for entry in entries])
        written.add_done_callback(lambda done: self._note_written(queued, done))

    def _note_written(
        self,
        queued: list[tuple[Entry, asyncio.Future[None]]],
        written: asyncio.Future[list[_Stored]],
    ) -> None:
        failure = None if written.cancelled() else written.exception()
        outcomes: Sequence[object] = [failure] * len(queued) if failure else written.result()
        for (entry, stored), outcome in zip(queued, outcomes, strict=True):
            if outcome is _Stored.NEW:
                self._lane(entry.kind).offer(entry)
            else:
                self._forget(1)
            if stored.done():
                continue
            if failure is not None:
                stored.set_exception(failure)
            elif outcome is _Stored.CONFLICT:
                stored.set_exception(_conflict(entry))
            else:
                stored.set_result(None)

    async def _load(self, kind: str, after_sequence: int) -> list[Entry]:
        rows = await self._writer.run(
            lambda db: db.execute(
                "SELECT sequence, kind, id, payload, append_time_ns FROM entry"
                " WHERE kind = ? AND sequence > ? ORDER BY sequence LIMIT ?",
                (kind, after_sequence, self._limits.max_batch_count),
            ).fetchall()
        )
        return [Entry(*row) for row in rows]

    def _finish(self, entries: Sequence[Entry], refused: Mapping[str, str]) -> None:
        now_ns = self._clock.time_ns()
        dead = [
            (*entry[1:], now_ns, refused[entry.id]) for entry in entries if entry.id in refused
        ]
        done = [(entry.sequence,) for entry in entries]

        def write(db: sqlite3.Connection) -> None:
            if dead:
                db.executemany("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?, ?, ?)", dead)
            db.executemany("DELETE FROM entry WHERE sequence = ?", done)

        self._writer.post(write)
        for entry_id, reason in refused.items():
            _log.error("%s %s was refused for good: %s", entries[0].kind, entry_id, reason)
        self._refused_count += len(dead)
        self._forget(len(entries))

    def _forget(self, count: int) -> None:
        self._depth_count -= count
        self._note_depth()

    def _note_depth(self) -> None:
        if self._depth_count:
            self._empty.clear()
        else:
            self._empty.set()


class _Stored(Enum):
    """What became of an entry: written, there already, or there already with another payload."""

    NEW = 1
    KNOWN = 2
    CONFLICT = 3


def _insert(db: sqlite3.Connection, entry: Entry) -> _Stored:
    inserted = db.execute(
        "INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, id) DO NOTHING", entry
    ).rowcount
    if inserted:
        return _Stored.NEW
    found = db.execute(
        "SELECT payload FROM entry WHERE kind = ? AND id = ?", (entry.kind, entry.id)
    ).fetchone()
    return _Stored.KNOWN if found[0] == entry.payload else _Stored.CONFLICT


def _conflict(entry: Entry) -> AlreadyExists:
    return AlreadyExists(
        f"{entry.kind} {entry.id} waits to be delivered with other content",
        reason="OUTBOX_CONFLICT",
        metadata={"kind": entry.kind, "id": entry.id},
    )


def _log_failure(stored: asyncio.Future[None]) -> None:
    if not stored.cancelled() and (error := stored.exception()) is not None:
        _log.error("an outbox record was not kept: %s", error)
