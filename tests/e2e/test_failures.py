"""Processes die, hang and come back while requests run; no request is lost that could be served, and no money ever."""

from __future__ import annotations

import asyncio

import grpc
import openai
import pytest
from tests.support.books import agreed, list_charges
from tests.support.running_suite import RunningSuite
from tests.support.tenant import Tenant, ask

from farthing.api.ledger.v1 import ledger_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import FarthingError, Unavailable
from farthing.kit.ids import new_trace_id
from farthing.kit.rpc.channel import decode_error
from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EDGE, CLOUD = "edge-site-edge", "cloud-a-cloud"
LONG_SCHEMA = '{"type": "string", "minLength": 600, "maxLength": 900}'


async def test_a_killed_edge_engine_loses_no_request_that_the_cloud_can_serve(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    suite.pause(EDGE)  # so that all of them are there, unanswered, when it dies
    work = [tenant.complete(ask(f"Unary {number}")) for number in range(8)]
    work += [tenant.generate(ask(f"Stream {number}")) for number in range(8)]
    work += [
        tenant.chat(f"SDK {number}", cache="off", stream=number > 3) for number in range(8)
    ]
    answers = asyncio.gather(*work)

    async def under_way() -> bool:
        return len(tenant.told) + await tenant.in_flight(EDGE) == len(work)

    await eventually(
        under_way, what="all requests at the engine or, once it is seen to hang, answered"
    )
    await suite.kill(EDGE)
    for told in await answers:
        assert told.tier == "cloud"
        assert told.finish_reason in ("stop", "length")
    assert any(told.attempt_count == 2 for told in tenant.told)
    await suite.well(EDGE)
    await tenant.ready(EDGE, CLOUD)
    assert (await tenant.complete(ask("Back"))).tier == "edge"
    await agreed(tenant)


async def test_a_hung_edge_engine_slows_nobody_else(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    suite.pause(EDGE)
    try:

        async def ejected() -> bool:
            state = (await tenant.instances())[EDGE].state
            return state == router_pb2.INSTANCE_STATE_EJECTED

        await eventually(ejected, what="ejection of the hung engine")
        told = await tenant.chat("Is anybody there?", cache="off")
        assert (told.tier, told.attempt_count) == ("cloud", 1)
    finally:
        suite.resume(EDGE)
    await tenant.ready(EDGE, CLOUD)
    await agreed(tenant)


async def test_a_stream_that_had_begun_ends_with_an_error_and_its_bill(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    decision, text, result = router_pb2.Decision(), "", router_pb2.Result()
    stream = tenant.open(ask("A long story", max_tokens=400, json_schema=LONG_SCHEMA))
    async for event in stream:
        if event.HasField("decision"):
            decision = event.decision
        elif event.HasField("delta"):
            if not text:
                await suite.kill(EDGE)
            text += event.delta.text
        else:
            result = event.result
    told = tenant.note(decision, result, text)
    assert told.finish_reason == "error"
    assert told.total_nano_usd > 0
    (charge,) = await _charges(tenant, 1)
    assert charge.waste == ledger_pb2.WASTE_FAILED
    await suite.well(EDGE)
    await tenant.ready(EDGE)
    await agreed(tenant)


async def test_without_quota_requests_fail_closed_until_it_is_back(
    suite: RunningSuite, tenant: Tenant
) -> None:
    answered, refused = 0, 0
    stop = asyncio.Event()

    async def keep_asking(number: int) -> None:
        nonlocal answered, refused
        while not stop.is_set():
            try:
                await tenant.complete(ask(f"Under way {number}"))
                answered += 1
            except grpc.aio.AioRpcError as failed:
                error = decode_error(failed)
                assert (type(error), error.reason) == (Unavailable, "QUOTA_UNREACHABLE")
                refused += 1

    askers = [asyncio.create_task(keep_asking(number)) for number in range(4)]
    try:
        await eventually(lambda: answered >= 8, what="a load")
        await suite.kill("edge-site-quota")
        with pytest.raises(openai.APIStatusError) as failed:
            await tenant.chat("Is this free?", cache="off")
        assert failed.value.status_code == 503
        assert failed.value.code == "quota_unreachable"
        assert "quota" in failed.value.message
        await eventually(lambda: refused >= 1, what="refused requests")
        before = answered
        await suite.well("edge-site-quota")
        await eventually(lambda: answered >= before + 8, timeout_s=30, what="serving again")
    finally:
        stop.set()
        await asyncio.gather(*askers)
    await agreed(tenant)


async def test_a_killed_router_delivers_its_charges_after_its_restart_once(
    suite: RunningSuite, tenant: Tenant
) -> None:
    suite.pause("edge-site-ledger")  # so that the charges are still in the outbox when it dies
    try:
        await asyncio.gather(
            *(tenant.complete(ask(f"Answer {number}")) for number in range(10))
        )
        await suite.kill("edge-site-router")
    finally:
        suite.resume("edge-site-ledger")
    await suite.well("edge-site-router")
    await eventually(lambda: _answers(tenant), timeout_s=30, what="answers again")
    charges = await _charges(tenant, len(tenant.told))
    assert len({charge.charge_id for charge in charges}) == len(tenant.told)
    budget = await _settled(tenant)
    assert budget == sum(told.total_nano_usd for told in tenant.told)


async def test_the_other_router_answers_what_a_killed_one_had_under_way(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    suite.pause(CLOUD)  # so that nothing is answered before the router dies
    try:
        answers = asyncio.gather(
            *(
                tenant.chat(f"Under way {n}", model="cloud-large", cache="off", stream=n > 2)
                for n in range(6)
            )
        )
        await eventually(lambda: _all_at(tenant, CLOUD, 6), what="all requests at the engine")
        await suite.kill("edge-site-router")
    finally:
        suite.resume(CLOUD)
    for told in await answers:
        assert told.text and told.finish_reason in ("stop", "length")
    await suite.well("edge-site-router")
    # The dead router's holds free themselves at their time; what was done for nobody was charged to nobody.
    books = await agreed(tenant, holds_left=True)
    assert books.charge_count == 6


async def test_a_stopped_ledger_costs_nobody_an_answer_and_gets_every_charge(
    suite: RunningSuite, tenant: Tenant
) -> None:
    async with suite.without("edge-site-ledger"):
        for number in range(6):
            told = await tenant.chat(f"Question {number}", cache="off", stream=number % 2 == 0)
            assert told.attempt_count == 1
    await agreed(tenant)


async def test_without_consul_the_last_known_view_serves(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    async with suite.without("edge-site-consul", "cloud-a-consul"):
        for model in ("edge-small", "cloud-large"):
            assert (await tenant.chat("Still there?", model=model, cache="off")).text
            assert (await tenant.generate(ask("Still there?", model=model))).text
        await suite.kill(EDGE)  # its own evidence still tells the router who is well
        assert (await tenant.complete(ask("And now?"))).tier == "cloud"
        await suite.well(EDGE)
        await tenant.ready(EDGE, CLOUD)
        assert (await tenant.complete(ask("And again?"))).tier == "edge"
    await tenant.ready(EDGE, CLOUD)
    await agreed(tenant)


async def test_a_client_that_leaves_frees_the_engine(
    suite: RunningSuite, tenant: Tenant
) -> None:
    await tenant.ready(EDGE, CLOUD)
    trace_id = new_trace_id()
    stream = tenant.open(
        ask("A long story", max_tokens=400, json_schema=LONG_SCHEMA), trace_id=trace_id
    )
    async for event in stream:
        if event.HasField("delta"):
            break
    stream.cancel()

    async def free() -> bool:
        status = (await tenant.instances())[EDGE]
        return status.in_flight_count == 0 and status.load.running_request_count == 0

    await eventually(free, what="a free engine")
    await agreed(tenant, untold=[trace_id])


async def _all_at(tenant: Tenant, instance_id: str, count: int) -> bool:
    return await tenant.in_flight(instance_id) == count


async def _answers(tenant: Tenant) -> bool:
    try:
        await tenant.complete(ask("Anybody?"))
    except grpc.aio.AioRpcError:
        return False
    return True


async def _charges(tenant: Tenant, count: int) -> list[ledger_pb2.Charge]:
    """All charges, once there are so many."""

    async def enough() -> list[ledger_pb2.Charge]:
        try:
            found = await list_charges(tenant)
        except FarthingError:
            return []
        return found if len(found) >= count else []

    charges: list[ledger_pb2.Charge] = await eventually(
        enough, timeout_s=30, what=f"{count} charges"
    )
    assert len(charges) == count
    return charges


async def _settled(tenant: Tenant) -> int:
    async def settled() -> bool:
        return (await tenant.read_budget()).held_nano_usd == 0

    await eventually(settled, timeout_s=30, what="settlement")
    return (await tenant.read_budget()).spent_nano_usd
