"""What only a store on disk has to do: come back as it was."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from farthing.kit.errors import FailedPrecondition, Unavailable
from farthing.quota.core.holds import Denial, End, Granted, SettleOutcome, Wish
from farthing.quota.core.keys import KeyWish, digest_secret
from farthing.quota.core.nodes import NO_LIMITS, Limits, Node, Period
from farthing.quota.store_sqlite import SqliteQuotaStore

START_MS = 1_767_225_600_000
DIGEST = digest_secret("fk-" + "a" * 32)


async def _open(path: Path, now_ms: int = START_MS) -> SqliteQuotaStore:
    store = SqliteQuotaStore(path / "quota.db", now_ms=now_ms)
    await store.open()
    return store


async def _add_key(store: SqliteQuotaStore, limits: Limits = NO_LIMITS) -> None:
    wish = KeyWish(
        "key_1", "laptop", "acme", "rd", "search", "balanced", True, START_MS + 10**9
    )
    await store.add_key(wish, DIGEST, "fk-aaaaa", limits, START_MS)


def _wish(hold_id: str, amount: int = 10, tokens: int = 0) -> Wish:
    return Wish(hold_id, DIGEST, amount, amount, tokens, 60_000)


def _sorted_windows(nodes: list[Node]) -> list[Node]:
    return [node._replace(requests=(), tokens=()) for node in nodes]


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    await _add_key(store, Limits(1000, Period.DAY, 20, 500))
    await store.set_limits("team:acme/rd/search", Limits(budget_nano_usd=2000), START_MS)
    (first,) = await store.reserve([_wish("held", 100, tokens=40)], START_MS)
    await store.reserve([_wish("settled", 50), _wish("expired", 5)], START_MS)
    await store.settle([End("settled", 33, 7)], START_MS)
    nodes, keys = await store.list_nodes(None, START_MS), await store.list_keys("")
    await store.close()

    store = await _open(tmp_path)
    assert await store.list_keys("") == keys
    assert _sorted_windows(await store.list_nodes(None, START_MS)) == _sorted_windows(nodes)
    assert await store.find_key(DIGEST, START_MS) == keys[0]
    assert await store.reserve([_wish("held", 100, tokens=40)], START_MS) == [first]
    results = await store.settle(
        [
            End("settled", 33, 7),
            End("settled", 34, 7),
            End("held", 101, 0),
            End("held", 100, 0),
        ],
        START_MS,
    )
    assert [result.outcome for result in results] == [
        SettleOutcome.DUPLICATE,
        SettleOutcome.CONFLICT,
        SettleOutcome.OVER_HOLD,
        SettleOutcome.SETTLED,
    ]
    assert await store.expire(START_MS + 60_000) == 1
    await store.close()


async def test_counts_per_minute_survive_a_restart(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    await _add_key(store, Limits(requests_per_minute=3, tokens_per_minute=100))
    await store.reserve([_wish("a", tokens=50), _wish("b", tokens=10), _wish("c")], START_MS)
    await store.settle([End("a", 1, 20), End("b", 0, 0)], START_MS)
    await store.close()

    store = await _open(tmp_path, START_MS + 30_000)
    answers = await store.reserve(
        [_wish("d", tokens=81), _wish("e", tokens=80), _wish("f")], START_MS + 30_000
    )
    assert [type(answer) for answer in answers] == [Denial, Granted, Denial]
    await store.close()


async def test_a_change_that_finds_the_disk_full_has_not_happened(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    await _add_key(store)
    await store._writer.run(lambda db: db.execute("PRAGMA max_page_count=1").fetchall())
    wishes = [_wish(f"{n:0128}", 1) for n in range(400)]
    with pytest.raises(Unavailable) as caught:
        await store.reserve(wishes, START_MS)
    assert caught.value.reason == "STORE_WRITE_FAILED"
    (node,) = await store.list_nodes(["key:key_1"], START_MS)
    assert node.held_nano_usd == 0
    await store._writer.run(lambda db: db.execute("PRAGMA max_page_count=100000").fetchall())
    await store.reserve(wishes, START_MS)
    (node,) = await store.list_nodes(["key:key_1"], START_MS)
    assert node.held_nano_usd == 400
    assert await store.expire(START_MS + 60_000) == 400
    await store.close()


async def test_one_refused_call_does_not_touch_others_of_its_transaction(
    tmp_path: Path,
) -> None:
    store = await _open(tmp_path)
    await _add_key(store)
    results = await asyncio.gather(
        store.reserve([_wish("a")], START_MS),
        store.revoke_key("nobody", START_MS),
        store.reserve([_wish("b")], START_MS),
        return_exceptions=True,
    )
    assert isinstance(results[1], Exception)
    (node,) = await store.list_nodes(["key:key_1"], START_MS)
    assert node.held_nano_usd == 20
    await store.close()


async def test_a_second_process_on_the_same_file_is_told_so(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        await _open(tmp_path)
    assert caught.value.reason == "STORE_IN_USE"
    await store.close()


async def test_neither_secret_nor_its_digest_is_in_the_file(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    await _add_key(store)
    await store.close()
    with sqlite3.connect(tmp_path / "quota.db") as db:
        (stored,) = db.execute("SELECT secret_hash FROM api_key").fetchone()
    db.close()
    assert stored != DIGEST and len(stored) == 32
    assert DIGEST not in (tmp_path / "quota.db").read_bytes()


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    store = await _open(tmp_path)
    await store.close()
    with sqlite3.connect(tmp_path / "quota.db") as db:
        db.execute("UPDATE meta SET value = 99 WHERE name = 'version'")
    db.close()
    with pytest.raises(FailedPrecondition) as caught:
        await _open(tmp_path)
    assert caught.value.reason == "STORE_VERSION"
