"""Both stores, so that each test of the interface runs on each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from farthing.cache.core import NewAnswer, Policy
from farthing.cache.store import CacheStore, MemoryCacheStore
from farthing.cache.store_sqlite import SqliteCacheStore
from farthing.clients.bounded_index import Key

POLICY = Policy(
    capacity_bytes=20_000,
    max_entry_bytes=4_000,
    tenant_share_ratio=0.6,
    default_ttl_ms=1_000,
    max_ttl_ms=10_000,
)
StoreFactory = Callable[[], CacheStore]


def key(tenant: str, number: int = 0) -> Key:
    return Key(tenant, number.to_bytes(32))


def answer(
    tenant: str,
    number: int = 0,
    *,
    payload: bytes = b"hello",
    model: str = "edge-small",
    cost_nano_usd: int = 100,
    expire_ms: int = 1_000,
) -> NewAnswer:
    return NewAnswer(key(tenant, number), payload, model, cost_nano_usd, expire_ms)


@pytest.fixture(params=["memory", "sqlite", "sqlite with little memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFactory:
    if request.param == "memory":
        return lambda: MemoryCacheStore(POLICY)
    memory_bytes = 20_000 if request.param == "sqlite" else 0
    return lambda: SqliteCacheStore(
        tmp_path / "answers.db", POLICY, memory_bytes=memory_bytes, now_ms=0
    )


@pytest.fixture
async def store(make_store: StoreFactory) -> AsyncIterator[CacheStore]:
    store = make_store()
    await store.open()
    yield store
    await store.close()
