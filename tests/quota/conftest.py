from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from farthing.quota.store import MemoryQuotaStore, QuotaStore
from farthing.quota.store_sqlite import SqliteQuotaStore

# 2026-01-01 00:00 UTC, where kit's FakeClock starts.
START_MS = 1_767_225_600_000


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QuotaStore]:
    """Every store, one after the other."""
    made: QuotaStore = (
        MemoryQuotaStore()
        if request.param == "memory"
        else SqliteQuotaStore(tmp_path / "quota.db", now_ms=START_MS)
    )
    await made.open()
    yield made
    await made.close()
