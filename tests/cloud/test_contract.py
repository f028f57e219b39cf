"""The inference contract over a real socket, with ONNX Runtime behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from tests.cloud.conftest import Tiny
from tests.support.inference_contract import Host, InferenceContract, hosting

from farthing.cloud.engine import load_engine, spawner
from farthing.cloud.plan import LoadPlan
from farthing.inference.process.child import Child
from farthing.inference.process.rules import EngineRules


@pytest.fixture(scope="module")
def plan(tiny: Tiny) -> LoadPlan:
    return tiny.plan()


@pytest.fixture(scope="module")
def spawn(plan: LoadPlan) -> Callable[[], Child]:
    return spawner(plan, EngineRules())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(plan: LoadPlan, spawn: Callable[[], Child]) -> AsyncIterator[Host]:
    reference = load_engine(plan)
    async with hosting(spawn, reference) as host:
        yield host
    reference.backend.close()


class TestOrtEngine(InferenceContract):
    """All of it."""
