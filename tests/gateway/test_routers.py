"""Which router may be given a prompt: to be routed elsewhere is already to leave this place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from tests.gateway.conftest import KEY, ScriptedRouter

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.gateway.routers import RouterPool
from farthing.kit.discovery import Instance, ServiceWatch
from farthing.kit.errors import Unavailable
from farthing.kit.testing import serve

METADATA = (("authorization", f"Bearer {KEY}"),)


@dataclass
class TwoRegions:
    """A router here and one far away, as discovery knows them."""

    pool: RouterPool
    watch: ServiceWatch
    near: ScriptedRouter
    far: ScriptedRouter
    instances: dict[str, Instance]

    def lose_near(self) -> None:
        self.watch.publish({"far": self.instances["far"]}, None)


@pytest.fixture
async def regions() -> AsyncIterator[TwoRegions]:
    async with AsyncExitStack() as stack:
        routers = {"near": ScriptedRouter(), "far": ScriptedRouter()}
        instances = {}
        for name, router in routers.items():
            _, address = await stack.enter_async_context(
                serve((router_pb2_grpc.add_RouterServiceServicer_to_server, router))
            )
            region = "here" if name == "near" else "far-away"
            instances[name] = Instance(name, "router", address, region)
        watch = ServiceWatch("router")
        watch.publish(instances, None)
        pool = RouterPool(watch, region="here", timeout_s=10)
        stack.push_async_callback(pool.close)
        yield TwoRegions(pool, watch, routers["near"], routers["far"], instances)


def ask(**wishes: object) -> router_pb2.GenerateRequest:
    return router_pb2.GenerateRequest(constraints=router_pb2.Constraints(**wishes))  # type: ignore[arg-type]


async def test_the_own_region_comes_first_and_another_helps_out(regions: TwoRegions) -> None:
    await regions.pool.complete(ask(), METADATA)
    assert (len(regions.near.requests), len(regions.far.requests)) == (1, 0)
    regions.lose_near()
    await regions.pool.complete(ask(), METADATA)
    assert len(regions.far.requests) == 1


@pytest.mark.parametrize(
    "wishes",
    [
        {"privacy_class": common_pb2.PRIVACY_CLASS_EDGE_ONLY},
        {"privacy_class": common_pb2.PRIVACY_CLASS_REGION},
        {"residency": ["here"]},
    ],
)
async def test_a_prompt_that_must_stay_is_not_shown_to_another_regions_router(
    regions: TwoRegions, wishes: dict[str, object]
) -> None:
    regions.lose_near()
    with pytest.raises(Unavailable):
        await regions.pool.complete(ask(**wishes), METADATA)
    with pytest.raises(Unavailable):
        async for _ in regions.pool.generate(ask(**wishes), METADATA):
            pass
    assert regions.far.requests == []


async def test_residency_may_name_the_other_region(regions: TwoRegions) -> None:
    regions.lose_near()
    await regions.pool.complete(ask(residency=["here", "far-away"]), METADATA)
    assert len(regions.far.requests) == 1
