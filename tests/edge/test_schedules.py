"""The batch loop over llama.cpp: any schedule, sampling, accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.support.loop_lab import LoopContract

from farthing.edge.engine import load_engine
from farthing.edge.plan import LoadPlan
from farthing.inference.process.server import LoadedEngine


@pytest.fixture(scope="module", params=["parts", "pool"])
def engine(
    request: pytest.FixtureRequest, plan_for: Callable[..., LoadPlan]
) -> Iterator[LoadedEngine]:
    # Fused attention rounds differently as the pool fills, enough to turn a near tie.
    plan = plan_for(
        "F32", slot_count=3, shared_kv=request.param == "pool", flash_attention="off"
    )
    loaded = load_engine(plan)
    yield loaded
    loaded.backend.close()


class TestLlamaSchedules(LoopContract):
    """All of it, with a part of the memory for each slot and with one pool."""
