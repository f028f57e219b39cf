"""SIGTERM ends every service cleanly: what it had begun is finished, and its exit status is 0."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from tests.support.books import agreed
from tests.support.running_suite import RunningSuite
from tests.support.tenant import Tenant, ask

from farthing.api.router.v1 import router_pb2
from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EDGE, CLOUD = "edge-site-edge", "cloud-a-cloud"


async def test_a_stopped_router_finishes_its_open_stream(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    suite.pause(EDGE)  # so that the stream is open, without an answer, when the signal comes
    try:
        stream = aiter(tenant.open(ask("Wait for me")))
        first = await anext(stream)
        stopping = asyncio.create_task(suite.stop_process("edge-site-router"))
        await eventually(lambda: _says_no(suite, "edge-site-router"), what="draining")
    finally:
        suite.resume(EDGE)
    text, result = "", router_pb2.Result()
    async for event in stream:
        text += event.delta.text
        if event.HasField("result"):
            result = event.result
    told = tenant.note(first.decision, result, text)
    assert told.text and told.finish_reason in ("stop", "length")
    assert await stopping == 0
    suite.start_process("edge-site-router")
    await suite.well("edge-site-router")
    await tenant.ready(EDGE, CLOUD)
    # The first life's exporter sent its spans before it ended, its outbox the charges.
    await agreed(tenant)


async def test_a_stopped_gateway_finishes_its_open_stream(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    suite.pause(EDGE)
    try:
        answer = asyncio.create_task(tenant.chat("Wait for me", stream=True, cache="off"))

        await eventually(lambda: tenant.in_flight(EDGE), what="the request at the engine")
        stopping = asyncio.create_task(suite.stop_process("edge-site-gateway"))
        await eventually(lambda: _says_no(suite, "edge-site-gateway"), what="draining")
    finally:
        suite.resume(EDGE)
    told = await answer
    assert told.text and told.finish_reason in ("stop", "length")
    assert await stopping == 0
    suite.start_process("edge-site-gateway")
    await suite.well("edge-site-gateway")
    await agreed(tenant)


@pytest.mark.parametrize("name", [EDGE, CLOUD])
async def test_a_stopped_engine_finishes_its_queue(
    suite: RunningSuite, tenant: Tenant, name: str
) -> None:
    await tenant.ready(EDGE, CLOUD)
    # What it had not taken up when it was stopped may go to the other engine.
    preference: dict[str, Any] = (
        {"policy": "best", "task": (await tenant.hard_task())[0]} if name == CLOUD else {}
    )
    begun = asyncio.Event()

    async def follow(number: int) -> None:
        decision, text, result = router_pb2.Decision(), "", router_pb2.Result()
        request = ask(f"Number {number}", max_tokens=60, **preference)
        async for event in tenant.open(request):
            if event.HasField("decision"):
                decision = event.decision
            elif event.HasField("delta"):
                begun.set()
                text += event.delta.text
            else:
                result = event.result
        tenant.note(decision, result, text)

    streams = asyncio.gather(*(follow(number) for number in range(16)))
    await begun.wait()
    assert await suite.stop_process(name) == 0
    await streams
    broken = [told for told in tenant.told if told.finish_reason not in ("stop", "length")]
    assert not broken, _broken_off(suite)
    assert any(name.startswith(told.region) for told in tenant.told)
    suite.start_process(name)
    await suite.well(name)
    await tenant.ready(EDGE, CLOUD)
    await agreed(tenant)


@pytest.mark.parametrize("service", ["quota", "cache", "ledger"])
async def test_a_stopped_service_exits_cleanly_and_comes_back(
    suite: RunningSuite, tenant: Tenant, service: str
) -> None:
    name = f"edge-site-{service}"
    await tenant.chat("Before", cache="read_write")
    assert await suite.stop_process(name) == 0
    suite.start_process(name)
    await suite.well(name)
    await eventually(lambda: _answers(tenant), timeout_s=30, what="answers again")
    await agreed(tenant)


def _broken_off(suite: RunningSuite) -> str:
    """What the router says of answers that broke off, and what the engines complain of."""
    told = [
        f"{name}: {line}"
        for name in ("edge-site-router", EDGE, CLOUD)
        for line in suite.log_of(name).splitlines()
        if '"level":"info"' not in line
    ]
    return "\n".join(told[-20:])


async def _answers(tenant: Tenant) -> bool:
    try:
        return bool((await tenant.chat("After", cache="off")).text)
    except openai.APIStatusError:
        return False


async def _says_no(suite: RunningSuite, name: str) -> bool:
    return not await suite.is_well(name)
