from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.support.outboxes import Outboxes


@pytest.fixture(params=["normal", "full"])
async def outboxes(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Outboxes]:
    """Outboxes of either durability."""
    async with AsyncExitStack() as stack:
        yield Outboxes(tmp_path / "outbox", request.param, stack)
