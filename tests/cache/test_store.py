"""What every store does alike, and what the durable one does on top."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cache.conftest import POLICY, answer, key

from farthing.cache.core import ENTRY_OVERHEAD_BYTES, Policy
from farthing.cache.store import CacheStore, MemoryCacheStore
from farthing.cache.store_sqlite import SqliteCacheStore
from farthing.kit.errors import InvalidArgument


async def test_what_was_stored_is_found_and_the_newest_wins(store: CacheStore) -> None:
    assert await store.store([answer("acme", payload=b"old")], 0) == 1
    assert await store.store([answer("acme", payload=b"new")], 0) == 1
    assert await store.lookup([key("acme"), key("acme", 1)], 0) == [b"new", None]
    stats = store.stats()
    assert (stats.entry_count, stats.hit_count, stats.miss_count) == (1, 1, 1)
    assert stats.saved_nano_usd == 100


async def test_a_tenant_never_sees_the_answer_of_another(store: CacheStore) -> None:
    await store.store([answer("acme")], 0)
    assert await store.lookup([key("globex")], 0) == [None]


async def test_the_keys_are_those_of_all_tenants_entries(store: CacheStore) -> None:
    await store.store([answer("acme", 1), answer("acme", 2), answer("globex", 1)], 0)
    assert set(store.keys()) == {key("acme", 1), key("acme", 2), key("globex", 1)}
    await store.invalidate("acme", "")
    await store.sweep(0)
    assert store.keys() == (key("globex", 1),)


async def test_an_expired_answer_is_not_given_out(store: CacheStore) -> None:
    await store.store([answer("acme", expire_ms=500)], 0)
    assert await store.lookup([key("acme")], 499) == [b"hello"]
    assert await store.lookup([key("acme")], 500) == [None]
    await store.sweep(500)
    stats = store.stats()
    assert (stats.entry_count, stats.size_bytes, stats.expiration_count) == (0, 0, 1)


async def test_an_answer_above_the_limit_is_not_taken(store: CacheStore) -> None:
    answers = [answer("acme", payload=b"x" * 4_001), answer("acme", 1, payload=b"x" * 4_000)]
    assert await store.store(answers, 0) == 1
    assert await store.lookup([key("acme")], 0) == [None]


async def test_invalidating_takes_one_model_or_all_of_one_tenant(store: CacheStore) -> None:
    await store.store(
        [
            answer("acme", 1, model="a"),
            answer("acme", 2, model="b"),
            answer("acme", 3, model="b"),
            answer("globex", 1, model="b"),
        ],
        0,
    )
    assert await store.invalidate("acme", "b") == 2
    assert await store.lookup([key("acme", 1), key("acme", 2)], 0) == [b"hello", None]
    assert await store.invalidate("acme", "") == 1
    assert await store.lookup([key("globex", 1)], 0) == [b"hello"]


async def test_one_tenant_cannot_push_out_the_others(store: CacheStore) -> None:
    await store.store([answer("quiet", payload=b"q" * 2_000)], 0)
    for number in range(100):
        await store.store([answer("loud", number, payload=b"l" * 1_000)], 0)
    assert await store.lookup([key("quiet")], 0) == [b"q" * 2_000]
    stats = store.stats()
    assert stats.eviction_count > 0
    assert stats.size_bytes <= POLICY.capacity_bytes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("store"),
                st.sampled_from(["acme", "globex"]),
                st.integers(0, 9),
                st.integers(0, 4_500),
                st.integers(0, 50),
            ),
            st.tuples(
                st.just("lookup"),
                st.sampled_from(["acme", "globex"]),
                st.integers(0, 9),
                st.just(0),
                st.integers(0, 20),
            ),
        ),
        max_size=40,
    )
)
def test_any_history_keeps_the_bounds_on_both_stores_and_answers_alike(
    history: list[tuple[str, str, int, int, int]],
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            disk = SqliteCacheStore(
                Path(folder) / "answers.db", POLICY, memory_bytes=3_000, now_ms=0
            )
            await disk.open()
            memory = MemoryCacheStore(POLICY)
            last: dict[tuple[str, int], tuple[bytes, int]] = {}
            now_ms = 0
            for serial, (action, tenant, number, size, elapsed) in enumerate(history):
                now_ms += elapsed
                if action == "store":
                    payload = f"{tenant} {serial} ".encode().ljust(size, b".")
                    new = answer(tenant, number, payload=payload, expire_ms=now_ms + 60)
                    taken = await memory.store([new], now_ms)
                    assert await disk.store([new], now_ms) == taken
                    if taken:
                        last[tenant, number] = (payload, now_ms + 60)
                else:
                    found = await memory.lookup([key(tenant, number)], now_ms)
                    assert await disk.lookup([key(tenant, number)], now_ms) == found
                    if found[0] is not None:
                        payload, expire_ms = last[tenant, number]
                        assert found[0] == payload
                        assert expire_ms > now_ms
                for stats in (memory.stats(), disk.stats()):
                    assert stats.size_bytes <= POLICY.capacity_bytes
            assert memory.stats() == disk.stats()
            await disk.close()

    asyncio.run(run())


async def test_answers_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    first = SqliteCacheStore(path, POLICY, memory_bytes=10_000, now_ms=0)
    await first.open()
    await first.store([answer("acme", 1), answer("acme", 2, expire_ms=50)], 0)
    before = first.stats()
    await first.close()
    second = SqliteCacheStore(path, POLICY, memory_bytes=10_000, now_ms=100)
    await second.open()
    assert await second.lookup([key("acme", 1), key("acme", 2)], 100) == [b"hello", None]
    assert before.entry_count == 2
    assert second.stats().entry_count == 1
    await second.close()


async def test_after_a_restart_with_less_room_the_file_shrinks_to_the_bound(
    tmp_path: Path,
) -> None:
    path = tmp_path / "answers.db"
    first = SqliteCacheStore(path, POLICY, memory_bytes=0, now_ms=0)
    await first.open()
    await first.store([answer("acme", n, payload=b"x" * 1_000) for n in range(7)], 0)
    await first.close()
    small = Policy(4 * (1_000 + ENTRY_OVERHEAD_BYTES), 1_000, 0.5, 1_000, 10_000)
    second = SqliteCacheStore(path, small, memory_bytes=0, now_ms=0)
    await second.open()
    await second.close()
    with sqlite3.connect(path) as connection:
        (row_count,) = connection.execute("SELECT count(*) FROM answer").fetchone()
    connection.close()
    assert row_count == 2


async def test_an_answer_lost_from_the_file_is_a_miss(tmp_path: Path) -> None:
    path = tmp_path / "answers.db"
    store = SqliteCacheStore(path, POLICY, memory_bytes=0, now_ms=0)
    await store.open()
    await store.store([answer("acme")], 0)
    await store._writer.run(lambda connection: connection.execute("DELETE FROM answer"))
    assert await store.lookup([key("acme")], 0) == [None]
    assert store.stats().entry_count == 0
    await store.close()


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (Policy(20_000, 4_000, 0.0, 1, 1), "tenant_share_ratio"),
        (Policy(20_000, 4_000, 0.5, 2, 1), "default_ttl_ms"),
        (Policy(20_000, 15_000, 0.5, 1, 1), "max_entry_bytes"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(policy: Policy, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        MemoryCacheStore(policy)
    assert caught.value.field == field
