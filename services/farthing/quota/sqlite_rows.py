"""Rows of quota's SQLite file: the schema, and how values are written and read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from farthing.quota.core.holds import Hold, HoldState
from farthing.quota.core.keys import ApiKey, KeyWish, make_key
from farthing.quota.core.nodes import Limits, Node, Period

VERSION = 1

# Open holds have a table of their own: it stays small, is read whole at the start, and a reserve
# writes one row. What is held is not stored beside it but follows from it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS api_key (
    key_id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    secret_prefix TEXT NOT NULL,
    organisation_id TEXT NOT NULL,
    cost_centre_id TEXT NOT NULL,
    team_id TEXT NOT NULL,
    default_policy TEXT NOT NULL,
    admin INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    expire_ms INTEGER,
    revoke_ms INTEGER
);
CREATE TABLE IF NOT EXISTS node (
    name TEXT PRIMARY KEY,
    create_ms INTEGER NOT NULL,
    budget_nano_usd INTEGER,
    period INTEGER NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    total_spent_nano_usd INTEGER NOT NULL,
    day INTEGER NOT NULL,
    day_spent_nano_usd INTEGER NOT NULL,
    month INTEGER NOT NULL,
    month_spent_nano_usd INTEGER NOT NULL,
    unfunded_nano_usd INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_hold (
    hold_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    granted_nano_usd INTEGER NOT NULL,
    token_count INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    expire_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended_hold (
    hold_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    granted_nano_usd INTEGER NOT NULL,
    token_count INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    expire_ms INTEGER NOT NULL,
    state INTEGER NOT NULL,
    settled_nano_usd INTEGER NOT NULL,
    unfunded_nano_usd INTEGER NOT NULL,
    settled_token_count INTEGER NOT NULL,
    finish_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ended_hold_by_time ON ended_hold (finish_ms)
"""


def write_keys(db: sqlite3.Connection, keys: Iterable[ApiKey]) -> None:
    """Insert or replace keys."""
    db.executemany(
        "INSERT OR REPLACE INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                key.key_id,
                key.secret_hash,
                key.name,
                key.secret_prefix,
                key.principal.organisation_id,
                key.principal.cost_centre_id,
                key.principal.team_id,
                key.principal.default_policy,
                key.principal.admin,
                key.create_ms,
                key.expire_ms,
                key.revoke_ms,
            )
            for key in keys
        ],
    )


def read_keys(db: sqlite3.Connection) -> Iterator[ApiKey]:
    """All keys."""
    for row in db.execute("SELECT * FROM api_key"):
        key_id, secret_hash, name, prefix, organisation, centre, team, policy, admin = row[:9]
        create_ms, expire_ms, revoke_ms = row[9:]
        wish = KeyWish(
            key_id, name, organisation, centre, team, policy, bool(admin), expire_ms, revoke_ms
        )
        yield make_key(wish, secret_prefix=prefix, secret_hash=secret_hash, now_ms=create_ms)


def stored(node: Node) -> tuple[object, ...]:
    """What of a node is written, so that a node is written only when that has changed."""
    limits = node.limits
    return (
        node.name,
        node.create_ms,
        limits.budget_nano_usd,
        limits.period,
        limits.requests_per_minute,
        limits.tokens_per_minute,
        node.total_spent_nano_usd,
        node.day,
        node.day_spent_nano_usd,
        node.month,
        node.month_spent_nano_usd,
        node.unfunded_nano_usd,
    )


def is_same(before: Node, after: Node) -> bool:
    """Whether the file need not be told. The turn of a day alone it finds out by itself."""
    return (
        before.total_spent_nano_usd == after.total_spent_nano_usd
        and before.unfunded_nano_usd == after.unfunded_nano_usd
        and before.limits is after.limits
    )


def write_nodes(db: sqlite3.Connection, nodes: Iterable[Node]) -> None:
    """Insert or replace nodes."""
    db.executemany(
        "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [stored(node) for node in nodes],
    )


def read_nodes(db: sqlite3.Connection) -> Iterator[Node]:
    """All nodes, without what is held and counted: holds tell that."""
    for row in db.execute("SELECT * FROM node"):
        name, create_ms, budget, period, requests, tokens = row[:6]
        total, day, day_spent, month, month_spent, unfunded = row[6:]
        yield Node(
            name,
            create_ms,
            Limits(budget, Period(period), requests, tokens),
            total_spent_nano_usd=total,
            day=day,
            day_spent_nano_usd=day_spent,
            month=month,
            month_spent_nano_usd=month_spent,
            unfunded_nano_usd=unfunded,
        )


def write_holds(db: sqlite3.Connection, holds: Iterable[Hold]) -> None:
    """Write holds to the table that fits their state."""
    opened: list[Hold] = []
    ended: list[Hold] = []
    for hold in holds:
        (opened if hold.state is HoldState.HELD else ended).append(hold)
    db.executemany(
        "INSERT INTO open_hold VALUES (?, ?, ?, ?, ?, ?)", [hold[:6] for hold in opened]
    )
    db.executemany("DELETE FROM open_hold WHERE hold_id = ?", [(hold[0],) for hold in ended])
    db.executemany(
        "INSERT OR REPLACE INTO ended_hold VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", ended
    )


def read_restart_holds(db: sqlite3.Connection, finished_after_ms: int) -> list[Hold]:
    """Open holds, and ended ones that still count per minute, in order of creation."""
    holds = [Hold(*row) for row in db.execute("SELECT * FROM open_hold")]
    recent = db.execute("SELECT * FROM ended_hold WHERE finish_ms > ?", (finished_after_ms,))
    holds += [_ended(row) for row in recent]
    return sorted(holds, key=lambda hold: hold.create_ms)


def read_ended_hold(db: sqlite3.Connection, hold_id: str) -> Hold | None:
    """An ended hold that is not forgotten yet."""
    row = db.execute("SELECT * FROM ended_hold WHERE hold_id = ?", (hold_id,)).fetchone()
    return None if row is None else _ended(row)


def prune_holds(
    db: sqlite3.Connection, settled_before_ms: int, expired_before_ms: int, count: int
) -> int:
    """Delete up to `count` old ended holds."""
    return db.execute(
        "DELETE FROM ended_hold WHERE hold_id IN (SELECT hold_id FROM ended_hold WHERE"
        " finish_ms < ? AND (state = ? OR finish_ms < ?) LIMIT ?)",
        (settled_before_ms, int(HoldState.SETTLED), expired_before_ms, count),
    ).rowcount


def _ended(row: tuple[object, ...]) -> Hold:
    hold = Hold._make(row)
    return hold._replace(state=HoldState(hold.state))
