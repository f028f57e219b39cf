from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from farthing.api.quota.v1 import quota_pb2 as pb
from farthing.api.quota.v1 import quota_pb2_grpc
from farthing.clients.outbox import LaneLimits, Outbox
from farthing.clients.quota import DenialReason, Denied, Reserved, ReserveRequest
from farthing.clients.quota_strict import StrictQuotaClient
from farthing.kit.clock import SystemClock
from farthing.kit.errors import InvalidArgument, Unavailable
from farthing.kit.rpc.channel import open_channel
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.testing import eventually, free_port, serve
from farthing.quota.core.keys import KeyWish, digest_secret
from farthing.quota.core.nodes import NO_LIMITS, Limits, Node, spent
from farthing.quota.local_client import LocalQuotaClient
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.service import QuotaServicer
from farthing.quota.store import MemoryQuotaStore
from farthing.quota.wire import Reservations, Results

DIGEST = digest_secret("fk-" + "a" * 32)
START_MS = SystemClock().time_ns() // 1_000_000


class GatedServicer(QuotaServicer):
    """The real service, which can be told to answer later, or not at all."""

    def __init__(self, store: MemoryQuotaStore) -> None:
        super().__init__(
            store,
            clock=SystemClock(),
            metrics=QuotaMetrics(Metrics("test")),
            make_id=lambda prefix: f"{prefix}_1",
            make_entropy=bytes,
        )
        self.gate = asyncio.Event()
        self.gate.set()
        self.batch_sizes: list[int] = []
        self.failure_count = 0
        self.asked_again = asyncio.Event()
        self.again_gate = asyncio.Event()
        self.again_gate.set()

    async def BatchReserve(
        self, request: pb.BatchReserveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchReserveResponse:
        self.asked_again.set()
        await self.again_gate.wait()
        return await super().BatchReserve(request, context)

    async def _reserve(self, request: Reservations, response: Results) -> None:
        await super()._reserve(request, response)
        self.batch_sizes.append(len(request.reservations))
        await self.gate.wait()
        if self.failure_count:
            self.failure_count -= 1
            raise Unavailable("lost on the way back", reason="LOST")

    async def BatchSettle(
        self, request: pb.BatchSettleRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.BatchSettleResponse:
        await self.gate.wait()
        return await super().BatchSettle(request, context)


class Site:
    """A service, a client and what is between them."""

    def __init__(
        self,
        store: MemoryQuotaStore,
        servicer: GatedServicer,
        outbox: Outbox,
        make_client: Callable[..., StrictQuotaClient],
    ) -> None:
        self.store, self.servicer, self.outbox = store, servicer, outbox
        self.make_client = make_client

    async def key_node(self) -> Node:
        (node,) = await self.store.list_nodes(["key:key_1"], START_MS)
        return node


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = MemoryQuotaStore()
    await store.add_key(
        KeyWish("key_1", "k", "acme", "rd", "search", "cheapest", False),
        DIGEST,
        "fk-aaaaa",
        NO_LIMITS,
        START_MS,
    )
    servicer = GatedServicer(store)
    async with AsyncExitStack() as stack:
        register = quota_pb2_grpc.add_QuotaServiceServicer_to_server
        channel, _ = await stack.enter_async_context(serve((register, servicer)))
        outbox = Outbox(
            tmp_path / "outbox",
            clock=SystemClock(),
            limits=LaneLimits(min_backoff_ms=1, max_backoff_ms=20),
        )
        await outbox.open()
        stack.push_async_callback(outbox.close)

        def make_client(deadline_ms: int = 10_000) -> StrictQuotaClient:
            client = StrictQuotaClient(channel, outbox, deadline_ms=deadline_ms)
            stack.push_async_callback(client.close)
            return client

        yield Site(store, servicer, outbox, make_client)
        servicer.gate.set()


def _request(hold_id: str, amount: int = 10, digest: bytes = DIGEST) -> ReserveRequest:
    return ReserveRequest(hold_id, digest, amount, amount, 5, 60_000)


async def _drain(outbox: Outbox) -> None:
    async with asyncio.timeout(20):
        await outbox.drained()


async def test_money_is_held_and_settled_through_the_outbox(site: Site) -> None:
    client = site.make_client()
    assert client.principal_hint(DIGEST) is None
    answer = await client.reserve(_request("h", 10))
    assert isinstance(answer, Reserved) and answer.granted_nano_usd == 10
    assert answer.principal.organisation_id == "acme" and answer.expire_ms > START_MS
    assert client.principal_hint(DIGEST) == answer.principal
    client.settle("h", 4, 5)
    await _drain(site.outbox)
    node = await site.key_node()
    assert (spent(node), node.held_nano_usd) == (4, 0)


async def test_reserves_that_arrive_during_a_call_travel_together(site: Site) -> None:
    client = site.make_client()
    site.servicer.gate.clear()
    first = client.reserve(_request("h0"))
    await eventually(lambda: site.servicer.batch_sizes == [1])
    rest = [client.reserve(_request(f"h{n}")) for n in range(1, 20)]
    await asyncio.sleep(0)
    site.servicer.gate.set()
    answers = await asyncio.gather(first, *rest)
    assert all(isinstance(answer, Reserved) for answer in answers)
    assert site.servicer.batch_sizes == [1, 19]


async def test_a_denial_is_an_answer_and_forgets_a_dead_key(site: Site) -> None:
    client = site.make_client()
    await site.store.set_limits("team:acme/rd/search", Limits(budget_nano_usd=9), START_MS)
    denied = await client.reserve(_request("h"))
    assert isinstance(denied, Denied) and denied.reason is DenialReason.BUDGET
    assert denied.node == "team:acme/rd/search" and denied.principal is not None
    assert await client.authenticate(DIGEST) == denied.principal
    assert client.principal_hint(DIGEST) == denied.principal
    await site.store.revoke_key("key_1", START_MS)
    denied = await client.reserve(_request("h2"))
    assert isinstance(denied, Denied) and denied.reason is DenialReason.KEY_INACTIVE
    assert client.principal_hint(DIGEST) is None
    assert await client.authenticate(DIGEST) is None
    unknown = await client.reserve(_request("h3", digest=b"x" * 32))
    assert isinstance(unknown, Denied) and unknown.principal is None


async def test_nobody_there_is_a_refusal(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", clock=SystemClock())
    await outbox.open()
    channel = open_channel(f"127.0.0.1:{free_port()}")
    client = StrictQuotaClient(channel, outbox, deadline_ms=2000)
    for call in (client.reserve(_request("h")), client.authenticate(DIGEST)):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.reason == "QUOTA_UNREACHABLE" and caught.value.retry_after_ms > 0
    await client.close()
    await channel.close()
    await outbox.close()


async def test_no_answer_in_time_is_a_refusal_and_leaves_nothing_held(site: Site) -> None:
    client = site.make_client(deadline_ms=100)
    site.servicer.gate.clear()
    with pytest.raises(Unavailable) as caught:
        await client.reserve(_request("slow"))
    assert caught.value.reason == "QUOTA_UNREACHABLE"
    assert (await site.key_node()).held_nano_usd == 10
    site.servicer.gate.set()
    patient = client
    await eventually(lambda: _try(patient, "next"))
    await _drain(site.outbox)
    assert (await site.key_node()).held_nano_usd == 10  # next's


async def _try(client: StrictQuotaClient, hold_id: str) -> bool:
    try:
        return isinstance(await client.reserve(_request(hold_id)), Reserved)
    except Unavailable:
        return False


async def test_a_service_that_ends_the_call_is_asked_in_another(site: Site) -> None:
    client = site.make_client()
    assert isinstance(await client.reserve(_request("h0")), Reserved)
    site.servicer.kept_calls.end()
    for number in range(1, 4):
        assert isinstance(await client.reserve(_request(f"h{number}")), Reserved)
    await _drain(site.outbox)
    assert (await site.key_node()).held_nano_usd == 40


async def test_an_answer_lost_on_the_way_is_asked_for_again_and_holds_once(site: Site) -> None:
    client = site.make_client()
    site.servicer.failure_count = 1
    assert isinstance(await client.reserve(_request("h")), Reserved)
    await _drain(site.outbox)
    assert (await site.key_node()).held_nano_usd == 10


async def test_what_is_asked_for_again_is_not_given_back_by_an_answer_in_between(
    site: Site,
) -> None:
    client = site.make_client()
    site.servicer.failure_count = 1
    site.servicer.again_gate.clear()
    lost = client.reserve(_request("lost"))
    await site.servicer.asked_again.wait()
    assert isinstance(await client.reserve(_request("other")), Reserved)
    await _drain(site.outbox)
    site.servicer.again_gate.set()
    assert isinstance(await lost, Reserved)
    client.settle("lost", 7, 0)
    client.settle("other", 2, 0)
    await _drain(site.outbox)
    assert site.outbox.stats().refused_count == 0
    assert spent(await site.key_node()) == 9


async def test_a_caller_that_goes_away_leaves_nothing_held(site: Site) -> None:
    client = site.make_client()
    site.servicer.gate.clear()
    caller = client.reserve(_request("h"))
    await eventually(lambda: site.servicer.batch_sizes == [1])
    caller.cancel()
    site.servicer.gate.set()
    await asyncio.gather(caller, return_exceptions=True)

    async def is_free() -> bool:
        return (await site.key_node()).held_nano_usd == 0

    await eventually(is_free)


async def test_settlements_wait_for_a_service_that_is_away(site: Site) -> None:
    client = site.make_client()
    for n in range(20):
        await client.reserve(_request(f"h{n}"))
    site.servicer.gate.clear()
    for n in range(20):
        client.settle(f"h{n}", 3, 0)
    await site.outbox.flush()
    assert site.outbox.stats().depth_count == 20
    site.servicer.gate.set()
    await _drain(site.outbox)
    node = await site.key_node()
    assert (spent(node), node.held_nano_usd) == (60, 0)


async def test_a_settlement_that_can_never_be_booked_is_set_aside(site: Site) -> None:
    client = site.make_client()
    await client.reserve(_request("h"))
    client.settle("never made", 3, 0)
    client.settle("never made and unused", 0, 0)
    client.settle("h", 3, 0)
    await _drain(site.outbox)
    stats = site.outbox.stats()
    assert (stats.refused_count, stats.delivered_count) == (1, 2)
    assert spent(await site.key_node()) == 3


@pytest.mark.parametrize(
    "request_",
    [
        _request(""),
        _request("h", digest=b"short"),
        ReserveRequest("h", DIGEST, 1, 2, 0, 60_000),
        ReserveRequest("h", DIGEST, 1, -1, 0, 60_000),
        ReserveRequest("h", DIGEST, 1, 1, -1, 60_000),
        ReserveRequest("h", DIGEST, 1, 1, 0, 1),
    ],
)
async def test_a_bad_request_fails_alone_before_it_joins_a_batch(
    site: Site, request_: ReserveRequest
) -> None:
    with pytest.raises(InvalidArgument):
        await site.make_client().reserve(request_)
    assert site.servicer.batch_sizes == []


async def test_the_local_client_answers_as_the_remote_one_does(site: Site) -> None:
    remote, local = site.make_client(), LocalQuotaClient(site.store, clock=SystemClock())
    first = await remote.reserve(_request("h"))
    assert await local.reserve(_request("h")) == first
    assert await local.authenticate(DIGEST) == await remote.authenticate(DIGEST)
    local.settle("h", 6, 0)
    await local.settled()
    await site.store.set_limits("key:key_1", Limits(budget_nano_usd=6), START_MS)
    denied = await remote.reserve(_request("poor"))
    assert isinstance(denied, Denied)
    assert await local.reserve(_request("poor")) == denied
    assert spent(await site.key_node()) == 6
