"""Hard limits hold in the running suite: budget, privacy, residency, quality; and Explain tells what then happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import openai
import pytest
from tests.support.books import agreed, list_charges
from tests.support.running_suite import RunningSuite
from tests.support.tenant import Tenant, Told, ask

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    ResourceExhausted,
    Unavailable,
)
from farthing.kit.money import NANO_PER_USD
from farthing.kit.rpc.channel import decode_error
from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EDGE_ONLY = common_pb2.PRIVACY_CLASS_EDGE_ONLY


async def test_a_spent_budget_is_the_sdks_insufficient_quota_until_it_is_raised(
    tenant: Tenant,
) -> None:
    first = await tenant.chat("What is 1 + 1?", cache="off")
    await tenant.set_budget(first.total_nano_usd + 1)
    with pytest.raises(openai.APIStatusError) as refused:
        await tenant.chat("What is 1 + 2?", cache="off")
    assert refused.value.code == "insufficient_quota"
    assert refused.value.type == "insufficient_quota"
    assert tenant.node in refused.value.message
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await tenant.complete(ask("What is 1 + 2?"))
    assert isinstance(decode_error(failed.value), ResourceExhausted)
    await tenant.set_budget(1_000 * NANO_PER_USD)
    assert (await tenant.chat("What is 1 + 2?", cache="off")).text
    await agreed(tenant)


async def test_edge_only_prompts_never_leave_the_edge(
    suite: RunningSuite, tenant: Tenant
) -> None:
    request = ask("My diagnosis is private", privacy_class=EDGE_ONLY, task="private")
    assert (await tenant.complete(request)).tier == "edge"
    assert (await tenant.generate(request)).tier == "edge"

    async def chat() -> Told | None:
        # Refused, while the gateway knows no router of its own site (an earlier test may have hurt one); never sent on.
        try:
            return await tenant.chat(
                "Private", privacy="edge_only", task="private", cache="off"
            )
        except openai.InternalServerError:
            return None

    told = await eventually(chat, timeout_s=30, what="the site's own router known")
    assert told.tier == "edge"
    error = await _refusal(tenant, ask("Private", privacy_class=EDGE_ONLY, model="cloud-large"))
    assert error.reason == "NO_CANDIDATE"
    async with suite.without("edge-site-edge"):
        error = await _refusal(tenant, request)
        assert isinstance(error, (FailedPrecondition, Unavailable))
        assert (await tenant.complete(ask("My lunch is not"))).tier == "cloud"
    await agreed(tenant)
    charges = [charge for charge in await list_charges(tenant) if charge.task == "private"]
    assert [charge.tier for charge in charges] == [common_pb2.TIER_EDGE] * 3


async def test_residency_keeps_a_request_in_its_regions(tenant: Tenant) -> None:
    for region in ("edge-site", "cloud-a"):
        told = await tenant.complete(ask("Stay", residency=[region]))
        assert told.region == region
    error = await _refusal(tenant, ask("Stay", residency=["eu-west-7"]))
    assert isinstance(error, FailedPrecondition)
    assert "eu-west-7" in error.message
    await agreed(tenant)


async def test_wanted_quality_moves_a_hard_task_to_the_cloud(tenant: Tenant) -> None:
    task, edge_ratio, cloud_ratio = await tenant.hard_task()
    between = (edge_ratio + cloud_ratio) / 2
    prompt = "What is 4381 + 2794?"
    assert (await tenant.complete(ask(prompt, task=task))).tier == "edge"
    wanting = ask(prompt, task=task, min_quality_ratio=between)
    assert (await tenant.complete(wanting)).tier == "cloud"
    told = await tenant.chat(prompt, task=task, min_quality=between, cache="off")
    assert told.tier == "cloud"
    await agreed(tenant)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"policy": "best", "task": "math/hard"},
        {"policy": "fastest"},
        {"policy": "greenest"},
        {"residency": ["cloud-a"]},
        {"privacy_class": EDGE_ONLY},
    ],
    ids=str,
)
async def test_explain_tells_what_then_happens(
    tenant: Tenant, wishes: Mapping[str, Any]
) -> None:
    request = ask("How many days until Friday?", **wishes)
    decision = await tenant.explain(request)
    told = await tenant.complete(request)
    chosen = decision.chosen
    assert (chosen.model, chosen.region) == (told.model, told.region)
    assert decision.hold_nano_usd == 0
    assert decision.reason
    assert len(decision.rejected) == 1 and decision.rejected[0].reason
    books = await agreed(tenant)
    assert books.charge_count == 1, "explaining costs nothing"


async def _refusal(tenant: Tenant, request: router_pb2.GenerateRequest) -> FarthingError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await tenant.complete(request)
    return decode_error(failed.value)
