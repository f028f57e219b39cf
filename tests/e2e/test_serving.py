"""A request's way through all processes, by either interface, and what it is said to have cost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import grpc
import openai
import pytest
from tests.support.books import agreed, list_charges, read_trace
from tests.support.tenant import Tenant, Told, ask

from farthing.api.ledger.v1 import ledger_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import InvalidArgument, NotFound
from farthing.kit.ids import new_trace_id
from farthing.kit.rpc.channel import decode_error
from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

# Keeps an engine busy for hundreds of tokens, whatever the model would rather say.
LONG_SCHEMA = '{"type": "string", "minLength": 600, "maxLength": 900}'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_the_openai_sdk_gets_an_answer_with_its_bill(
    tenant: Tenant, stream: bool
) -> None:
    told = await tenant.chat("What is 2 + 3?", stream=stream, task="math", cache="off")
    assert told.text
    assert told.total_nano_usd > 0
    assert told.input_token_count > 0 and told.output_token_count > 0
    await agreed(tenant)


async def test_both_interfaces_streamed_or_not_give_the_same_answer(tenant: Tenant) -> None:
    prompt = "Where is order R117229?"
    answers = [
        await tenant.chat(prompt, cache="off"),
        await tenant.chat(prompt, cache="off", stream=True),
        await tenant.complete(ask(prompt)),
        await tenant.generate(ask(prompt)),
    ]
    assert len({(told.text, told.model, told.output_token_count) for told in answers}) == 1
    assert all(told.attempt_count == 1 for told in answers)
    await agreed(tenant)


@pytest.mark.parametrize(
    ("model", "engine"), [("edge-small", "edge"), ("cloud-large", "cloud")]
)
async def test_one_trace_holds_every_hop_under_its_caller(
    tenant: Tenant, model: str, engine: str
) -> None:
    told = await tenant.chat(f"A trace of {model}", model=model, cache="read_write")
    # A miss is mostly known to the router, so the cache need not be among them.
    trace = await _whole_trace(tenant, told, {"gateway", "router", "quota", engine})
    by_id = {span.span_id: span for span in trace.spans}
    (root,) = [span for span in trace.spans if span.parent_span_id not in by_id]
    assert (root.service_name, root.parent_span_id) == ("gateway", "")
    (work,) = [span for span in trace.spans if span.service_name == engine]
    asked = by_id[work.parent_span_id]
    routed = by_id[asked.parent_span_id]
    assert (asked.service_name, asked.kind, asked.name) == ("router", "client", f"chat {model}")
    assert (routed.service_name, routed.kind) == ("router", "server")
    assert by_id[routed.parent_span_id] is root
    for span in trace.spans:
        if span.service_name in ("quota", "cache"):
            assert by_id[span.parent_span_id] is routed
    assert asked.cost_nano_usd == told.total_nano_usd == trace.total_nano_usd
    assert sum(span.cost_nano_usd for span in trace.spans) == told.total_nano_usd
    assert root.subtree_cost_nano_usd == told.total_nano_usd
    await agreed(tenant)


async def test_an_answer_of_the_other_region_comes_from_the_cache_in_one_trace(
    tenant: Tenant,
) -> None:
    question = "What do both regions ask?"
    await tenant.complete(ask(question, cache_mode=router_pb2.CACHE_MODE_READ_WRITE))

    async def ask_again() -> Told | None:
        # Read only: until it has heard of the other's answer, this router must not make and keep its own.
        request = ask(question, cache_mode=router_pb2.CACHE_MODE_READ)
        told = await tenant.complete(request, channel=tenant.cloud_channel)
        return told if told.tier == "cache" else None

    told: Told = await eventually(ask_again, timeout_s=30, what="an answer from the cache")
    trace = await _whole_trace(tenant, told, {"router", "quota", "cache"})
    (routed,) = [span for span in trace.spans if span.name.endswith("/Complete")]
    assert (routed.service_name, routed.region) == ("router", "cloud-a")
    for span in trace.spans:
        if span is not routed:
            assert span.parent_span_id == routed.span_id
    (paid,) = [span for span in trace.spans if span.cost_nano_usd]
    assert paid.cost_nano_usd == told.total_nano_usd == trace.total_nano_usd
    await agreed(tenant)


async def test_every_account_agrees_to_the_nano_after_a_mixed_load(tenant: Tenant) -> None:
    abandoned = [new_trace_id() for _ in range(10)]
    await tenant.complete(_cached())
    work: list[Callable[[], Awaitable[object]]] = []
    for number in range(14):
        model = ("edge-small", "cloud-large", "auto")[number % 3]
        prompt = f"Request {number}: what is {number} + 4?"
        work += [
            partial(tenant.chat, prompt, model=model, cache="off"),
            partial(tenant.chat, prompt, model=model, cache="off", stream=True),
            partial(tenant.complete, ask(prompt, model=model)),
            partial(tenant.generate, ask(prompt, model=model)),
            partial(tenant.complete, _cached()),
            partial(_refused, tenant, number),
        ]
    work += [partial(_abandon, tenant, trace_id) for trace_id in abandoned]
    slots = asyncio.Semaphore(16)

    async def bounded(one: Callable[[], Awaitable[object]]) -> None:
        async with slots:
            await one()

    await asyncio.gather(*(bounded(one) for one in work))

    assert len(tenant.told) == 14 * 5 + 1
    books = await agreed(tenant, untold=abandoned)
    charges = await list_charges(tenant)
    assert sum(charge.tier == 3 for charge in charges) == 14, "every repeat is a cache hit"
    assert any(charge.waste == ledger_pb2.WASTE_CANCELLED for charge in charges)
    assert books.waste == sum(c.total_nano_usd for c in charges if c.waste)
    assert {charge.region for charge in charges} == {"edge-site", "cloud-a"}


async def _whole_trace(
    tenant: Tenant, told: Told, wanted: set[str]
) -> ledger_pb2.GetTraceResponse:
    """The trace, once the ledger has its charge and spans of all these services."""
    trace = ledger_pb2.GetTraceResponse()

    async def missing() -> set[str]:
        nonlocal trace
        with contextlib.suppress(NotFound):
            trace = await read_trace(tenant, told.trace_id)
        found = {span.service_name for span in trace.spans}
        return wanted - found | (set() if trace.charges else {"charge"})

    async def whole() -> bool:
        return not await missing()

    with contextlib.suppress(AssertionError):
        await eventually(whole, timeout_s=30)
    assert not await missing()
    return trace


def _cached() -> router_pb2.GenerateRequest:
    return ask("The same question again", cache_mode=router_pb2.CACHE_MODE_READ_WRITE)


async def _abandon(tenant: Tenant, trace_id: str) -> None:
    """A stream whose reader goes away after the first text."""
    stream = tenant.open(
        ask("A long story", max_tokens=400, json_schema=LONG_SCHEMA), trace_id=trace_id
    )
    async for event in stream:
        if event.HasField("delta"):
            break
    stream.cancel()


async def _refused(tenant: Tenant, number: int) -> None:
    """Requests that are wrong in one way or another."""
    if number % 4 == 0:
        with pytest.raises(openai.BadRequestError) as refused:
            await tenant.client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Hi"}], temperature=9
            )
        assert refused.value.param == "temperature"
    elif number % 4 == 1:
        with pytest.raises(openai.AuthenticationError):
            await tenant.client.with_options(api_key="fk-wrong").chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Hi"}]
            )
    else:
        request, error = (
            (ask("Hi", model="no-such-model"), NotFound)
            if number % 4 == 2
            else (ask("Hi", max_tokens=-1), InvalidArgument)
        )
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await tenant.complete(request)
        assert isinstance(decode_error(failed.value), error)
