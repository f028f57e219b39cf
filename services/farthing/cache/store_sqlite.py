"""Answers on disk with the hot ones in memory: survives a restart, reads disk only for what memory has let go."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from farthing.cache.core import Held, NewAnswer, Policy, Stats, size_of
from farthing.cache.store import Counters, matching_keys
from farthing.clients.bounded_index import BoundedIndex, Bounds, Key
from farthing.kit.errors import Unavailable
from farthing.kit.sqlite_writer import SqliteWriter

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answer (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT NOT NULL,
    request_hash BLOB NOT NULL,
    model TEXT NOT NULL,
    cost_nano_usd INTEGER NOT NULL,
    expire_ms INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (tenant_id, request_hash)
)
"""
_INSERT = """
INSERT OR REPLACE INTO answer (tenant_id, request_hash, model, cost_nano_usd, expire_ms, payload)
VALUES (?, ?, ?, ?, ?, ?)
"""
_DELETE = "DELETE FROM answer WHERE tenant_id = ? AND request_hash = ?"
_SELECT = (
    "SELECT payload FROM answer WHERE tenant_id = ? AND request_hash = ? AND expire_ms = ?"
)
_log = logging.getLogger(__name__)


class SqliteCacheStore:
    """See CacheStore. `memory_bytes` bounds what is also kept in memory.

    The index (a few hundred bytes an entry, counted in its size) is in memory and decides; the file follows it in the
    writer's thread. After a restart, recency is the order of storing. The file is not synced on every commit: what
    the last moments before a power failure stored may be gone, which is a miss.
    """

    def __init__(self, path: Path, policy: Policy, *, memory_bytes: int, now_ms: int) -> None:
        policy.check()
        self._policy = policy
        self._index: BoundedIndex[Held] = BoundedIndex(policy.bounds())
        share_bytes = int(memory_bytes * policy.tenant_share_ratio)
        self._hot: BoundedIndex[bytes] = BoundedIndex(
            Bounds(memory_bytes, share_bytes, share_bytes)
        )
        self._counters = Counters()
        self._opened_ms = now_ms
        self._writer = SqliteWriter(path, schema=_SCHEMA)

    async def open(self) -> None:
        """See CacheStore."""
        await self._writer.open()
        rows = await self._writer.run(_read_rows)
        removed: list[Key] = []
        for key, held, size_bytes, expire_ms in rows:
            put = self._index.put(
                key, held, size_bytes=size_bytes, expire_ms=expire_ms, now_ms=self._opened_ms
            )
            removed += [*put.evicted, *put.expired] if put.taken else [key]
        self._delete(removed)

    async def close(self) -> None:
        """See CacheStore."""
        await self._writer.close()

    async def lookup(self, keys: Sequence[Key], now_ms: int) -> list[bytes | None]:
        """See CacheStore."""
        found: dict[Key, bytes | None] = {}
        on_disk: list[tuple[Key, int]] = []
        for key in keys:
            if key in found:
                continue
            entry = self._index.get(key, now_ms)
            hot = self._hot.get(key, now_ms) if entry is not None else None
            found[key] = hot.value if hot is not None else None
            if entry is not None and hot is None:
                on_disk.append((key, entry.expire_ms))
        if on_disk:
            found.update(await self._read(on_disk, now_ms))
        return [self._count(key, found[key]) for key in keys]

    async def store(self, answers: Sequence[NewAnswer], now_ms: int) -> int:
        """See CacheStore."""
        taken: dict[Key, NewAnswer] = {}
        taken_count = 0
        removed: list[Key] = []
        for answer in answers:
            put = self._index.put(
                answer.key,
                Held(answer.model, answer.cost_nano_usd),
                size_bytes=size_of(answer.payload),
                expire_ms=answer.expire_ms,
                now_ms=now_ms,
            )
            self._counters.eviction_count += len(put.evicted)
            self._counters.expiration_count += len(put.expired)
            for key in (*put.evicted, *put.expired):
                self._hot.remove(key)
                removed.append(key)
            if put.taken:
                taken_count += 1
                taken[answer.key] = answer
                self._warm(answer.key, answer.payload, answer.expire_ms, now_ms)
        kept = [answer for key, answer in taken.items() if self._index.peek(key) is not None]
        try:
            await self._writer.run(lambda connection: _write(connection, removed, kept))
        except Unavailable:
            for answer in kept:
                self._forget(answer.key)
            raise
        return taken_count

    async def invalidate(self, tenant_id: str, model: str) -> int:
        """See CacheStore."""
        keys = list(matching_keys(self._index, tenant_id, model))
        for key in keys:
            self._forget(key)
        await self._writer.run(lambda connection: _write(connection, keys, ()))
        return len(keys)

    async def sweep(self, now_ms: int) -> None:
        """See CacheStore."""
        expired = self._index.sweep(now_ms)
        self._hot.sweep(now_ms)
        self._counters.expiration_count += len(expired)
        self._delete(expired)

    def keys(self) -> tuple[Key, ...]:
        """See CacheStore."""
        return self._index.keys()

    def stats(self) -> Stats:
        """See CacheStore."""
        return self._counters.stats(self._index, self._policy)

    async def _read(
        self, wanted: Sequence[tuple[Key, int]], now_ms: int
    ) -> dict[Key, bytes | None]:
        entries = {key: self._index.peek(key) for key, _ in wanted}
        try:
            payloads = await self._writer.run(lambda connection: _select(connection, wanted))
        except Unavailable as error:
            _log.warning("answers could not be read: %s", error.message)
            return dict.fromkeys(entries)
        found: dict[Key, bytes | None] = {}
        for (key, expire_ms), payload in zip(wanted, payloads, strict=True):
            # Meanwhile the entry may have been replaced, evicted or invalidated: then this payload is no longer it.
            current = self._index.peek(key)
            unchanged = current is not None and current is entries[key]
            found[key] = payload if unchanged else None
            if unchanged and payload is not None:
                self._warm(key, payload, expire_ms, now_ms)
            elif unchanged:
                self._forget(key)
        return found

    def _count(self, key: Key, payload: bytes | None) -> bytes | None:
        entry = self._index.peek(key)
        if payload is None or entry is None:
            self._counters.miss_count += 1
            return None
        self._counters.hit(entry.value.cost_nano_usd)
        return payload

    def _warm(self, key: Key, payload: bytes, expire_ms: int, now_ms: int) -> None:
        self._hot.remove(key)
        self._hot.put(
            key, payload, size_bytes=size_of(payload), expire_ms=expire_ms, now_ms=now_ms
        )

    def _forget(self, key: Key) -> None:
        self._index.remove(key)
        self._hot.remove(key)

    def _delete(self, keys: Sequence[Key]) -> None:
        for key in keys:
            self._hot.remove(key)
        if keys:
            self._writer.post(lambda connection: _write(connection, keys, ()))


def _read_rows(connection: sqlite3.Connection) -> list[tuple[Key, Held, int, int]]:
    rows = connection.execute(
        "SELECT tenant_id, request_hash, model, cost_nano_usd, length(payload), expire_ms "
        "FROM answer ORDER BY sequence"
    )
    overhead_bytes = size_of(b"")
    return [
        (
            Key(tenant_id, request_hash),
            Held(model, cost_nano_usd),
            payload_bytes + overhead_bytes,
            expire_ms,
        )
        for tenant_id, request_hash, model, cost_nano_usd, payload_bytes, expire_ms in rows
    ]


def _select(
    connection: sqlite3.Connection, wanted: Sequence[tuple[Key, int]]
) -> list[bytes | None]:
    payloads: list[bytes | None] = []
    for key, expire_ms in wanted:
        row = connection.execute(_SELECT, (*key, expire_ms)).fetchone()
        payloads.append(row[0] if row is not None else None)
    return payloads


def _write(
    connection: sqlite3.Connection, removed: Sequence[Key], kept: Sequence[NewAnswer]
) -> None:
    connection.executemany(_DELETE, removed)
    connection.executemany(
        _INSERT,
        [
            (*answer.key, answer.model, answer.cost_nano_usd, answer.expire_ms, answer.payload)
            for answer in kept
        ],
    )
