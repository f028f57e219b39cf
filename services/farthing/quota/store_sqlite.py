"""Quota's books in SQLite: decided in memory, written in groups, answered once committed."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from farthing.kit.durability import Synchronous
from farthing.kit.errors import FailedPrecondition
from farthing.kit.sqlite_group import Writer
from farthing.kit.sqlite_inline import InlineSqliteWriter
from farthing.kit.sqlite_writer import SqliteWriter
from farthing.quota import sqlite_rows as rows
from farthing.quota.core import transitions
from farthing.quota.core.books import Books, Changes
from farthing.quota.core.holds import Denial, End, Granted, Hold, Settled, Wish
from farthing.quota.core.keys import ApiKey, KeyWish
from farthing.quota.core.nodes import Limits, Node
from farthing.quota.store import Operations, expire_due, select_keys, select_nodes

Result = TypeVar("Result")

_SALT_BYTES = 32
# Counts per minute reach this far back.
_RATE_MS = 62_000
_PRUNE_COUNT = 200


class _FiledBooks(Books):
    """Books whose ended holds are looked up in the file. For the writer's thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(keep_ended=False)
        self._db = db

    def hold(self, hold_id: str) -> Hold | None:
        """See View."""
        return self.holds.get(hold_id) or rows.read_ended_hold(self._db, hold_id)


class _Session:
    """The books beside the file: changed with each commit, untouched by a rollback."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self.books: Books = Books(keep_ended=False)
        self.operations = Operations(b"")
        self.group = Changes(self.books)

    def open(self, connection: sqlite3.Connection) -> None:
        """See Session: read keys, nodes and open holds."""
        self.operations = Operations(_prepare(connection))
        books = _FiledBooks(connection)
        for key in rows.read_keys(connection):
            books.keys[key.key_id] = key
            books.hashes[key.secret_hash] = key.key_id
        for node in rows.read_nodes(connection):
            books.nodes[node.name] = node
        for hold in rows.read_restart_holds(connection, self._now_ms - _RATE_MS):
            books.restore_hold(hold)
        self.books, self.group = books, Changes(books)

    def flush(self, connection: sqlite3.Connection) -> None:
        """See Session: write what the group changed."""
        group = self.group
        if group.keys:
            rows.write_keys(connection, group.keys.values())
        if group.holds:
            rows.write_holds(connection, group.holds.values())
        changed = [
            node
            for name, node in group.nodes.items()
            if (before := self.books.node(name)) is None or not rows.is_same(before, node)
        ]
        if changed:
            rows.write_nodes(connection, changed)

    def committed(self) -> None:
        """See Session."""
        self.books.apply(self.group)
        self.group = Changes(self.books)

    def rolled_back(self) -> None:
        """See Session."""
        self.group = Changes(self.books)
        self.books.requeue()


class SqliteQuotaStore:
    """Implements QuotaStore on one SQLite file, which it owns alone.

    `now_ms` is the time of the start. A transaction survives the death of the process; with
    synchronous="normal" a loss of power may take the last ones back, see docs/decisions/0011.
    """

    def __init__(self, path: Path, *, now_ms: int, synchronous: Synchronous = "normal") -> None:
        self._session = _Session(now_ms)
        # Jobs here are short, and whoever reserves waits for them.
        self._writer: Writer = (
            InlineSqliteWriter(path, schema=rows.SCHEMA, session=self._session)
            if synchronous == "normal"
            else SqliteWriter(
                path, schema=rows.SCHEMA, synchronous=synchronous, session=self._session
            )
        )

    async def open(self) -> None:
        """See QuotaStore. FailedPrecondition when another process has the file."""
        await self._writer.open()

    async def close(self) -> None:
        """See QuotaStore."""
        await self._writer.close()

    async def reserve(self, wishes: Sequence[Wish], now_ms: int) -> list[Granted | Denial]:
        """See QuotaStore."""
        session = self._session

        def change(books: Changes) -> list[Granted | Denial]:
            expire_due(session.books, books, now_ms)
            return session.operations.reserve(books, wishes, now_ms)

        return await self._commit(change)

    async def settle(self, ends: Sequence[End], now_ms: int) -> list[Settled]:
        """See QuotaStore."""
        return await self._commit(
            lambda books: [transitions.settle(books, end, now_ms) for end in ends]
        )

    async def expire(self, now_ms: int) -> int:
        """See QuotaStore."""
        return await self._commit(lambda books: expire_due(self._session.books, books, now_ms))

    async def prune(self, settled_before_ms: int, expired_before_ms: int) -> int:
        """See QuotaStore. In pieces, so that reserves get their turn in between."""
        total = 0
        while count := await self._writer.run(
            lambda db: rows.prune_holds(db, settled_before_ms, expired_before_ms, _PRUNE_COUNT)
        ):
            total += count
        return total

    async def find_key(self, key_digest: bytes, now_ms: int) -> ApiKey | None:
        """See QuotaStore. Read from memory, in the caller's thread."""
        key = self._session.operations.key_of(self._session.books, key_digest)
        return key if key is not None and key.is_active(now_ms) else None

    async def add_key(
        self, wish: KeyWish, key_digest: bytes, secret_prefix: str, limits: Limits, now_ms: int
    ) -> ApiKey:
        """See QuotaStore."""
        return await self._commit(
            lambda books: self._session.operations.add_key(
                books, wish, key_digest, secret_prefix, limits, now_ms
            )
        )

    async def revoke_key(self, key_id: str, now_ms: int) -> ApiKey:
        """See QuotaStore."""
        return await self._commit(lambda books: transitions.revoke_key(books, key_id, now_ms))

    async def list_keys(self, organisation_id: str) -> list[ApiKey]:
        """See QuotaStore."""
        return await self._read(lambda books: select_keys(books, organisation_id))

    async def set_limits(self, name: str, limits: Limits, now_ms: int) -> Node:
        """See QuotaStore."""
        return await self._commit(
            lambda books: transitions.set_limits(books, name, limits, now_ms)
        )

    async def list_nodes(self, names: Sequence[str] | None, now_ms: int) -> list[Node]:
        """See QuotaStore."""
        return await self._read(lambda books: select_nodes(books, names, now_ms))

    async def _commit(self, change: Callable[[Changes], Result]) -> Result:
        session = self._session

        def job(db: sqlite3.Connection) -> Result:
            # A change that refuses leaves the group as it was.
            books = Changes(session.group)
            result = change(books)
            session.group.merge(books)
            return result

        return await self._writer.run(job)

    async def _read(self, select: Callable[[Books], Result]) -> Result:
        # In the writer's thread, between transactions' changes: committed state only.
        return await self._writer.run(lambda db: select(self._session.books))


def _prepare(db: sqlite3.Connection) -> bytes:
    """Return the store's salt, made at its first start. FailedPrecondition for a newer file."""
    db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (rows.VERSION,))
    db.execute(
        "INSERT OR IGNORE INTO meta VALUES ('salt', ?)", (secrets.token_bytes(_SALT_BYTES),)
    )
    meta = dict(db.execute("SELECT name, value FROM meta"))
    if meta["version"] != rows.VERSION:
        raise FailedPrecondition(
            f"the quota file has version {meta['version']}, this farthing reads {rows.VERSION}; "
            "start the farthing that wrote it",
            reason="STORE_VERSION",
        )
    salt: bytes = meta["salt"]
    return salt
