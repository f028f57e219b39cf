"""The inference contract over a real socket, with llama.cpp behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from tests.support.inference_contract import Host, InferenceContract, hosting

from farthing.edge.engine import load_engine, spawner
from farthing.edge.plan import LoadPlan
from farthing.inference.process.child import Child
from farthing.inference.process.rules import EngineRules


@pytest.fixture(scope="module")
def plan(plan_for: Callable[..., LoadPlan]) -> LoadPlan:
    return plan_for("F32", context_length=512, slot_count=4, embedding_context_length=64)


@pytest.fixture(scope="module")
def spawn(plan: LoadPlan) -> Callable[[], Child]:
    return spawner(plan, EngineRules())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(plan: LoadPlan, spawn: Callable[[], Child]) -> AsyncIterator[Host]:
    reference = load_engine(plan)
    async with hosting(spawn, reference) as host:
        yield host
    reference.backend.close()


class TestLlamaEngine(InferenceContract):
    """All of it."""
