"""The cache service on a real socket, and its client in front of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from tests.cache.conftest import POLICY

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.api.common.v1 import common_pb2
from farthing.cache.key_feed import KeyFeed
from farthing.cache.service import CacheServicer
from farthing.cache.store import MemoryCacheStore
from farthing.clients.cache import CacheClientOptions, InMemoryCacheClient, RemoteCacheClient
from farthing.kit.errors import InvalidArgument, PermissionDenied, Unauthenticated
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.testing import FakeClock, eventually, free_port, serve

HASH = hashlib.sha256(b"request").digest()
ANSWER = cache_pb2.CachedAnswer(
    text="42",
    finish_reason=common_pb2.FINISH_REASON_STOP,
    model="edge-small",
    cost_nano_usd=1_500,
)
# Long enough for a loaded machine; no test waits for it.
OPTIONS = CacheClientOptions(lookup_timeout_s=5.0)


@dataclass
class World:
    channel: grpc.aio.Channel
    stub: cache_pb2_grpc.CacheServiceAsyncStub
    clock: FakeClock
    store: MemoryCacheStore


async def require_admin(key_digest: bytes) -> None:
    if key_digest != hashlib.sha256(b"fk-admin").digest():
        raise PermissionDenied("not an administrator's key", reason="ADMIN_REQUIRED")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, store = FakeClock(), MemoryCacheStore(POLICY)
    servicer = CacheServicer(store, POLICY, KeyFeed(), clock=clock, require_admin=require_admin)
    async with serve((cache_pb2_grpc.add_CacheServiceServicer_to_server, servicer)) as (
        channel,
        _,
    ):
        yield World(channel, cache_pb2_grpc.CacheServiceStub(channel), clock, store)


def store_request(**changes: object) -> cache_pb2.BatchStoreRequest:
    item = cache_pb2.Store(tenant_id="acme", request_hash=HASH, answer=ANSWER)
    item.MergeFrom(cache_pb2.Store(**changes))  # type: ignore[arg-type]
    return cache_pb2.BatchStoreRequest(stores=[item])


def lookup_request(tenant: str = "acme") -> cache_pb2.BatchLookupRequest:
    return cache_pb2.BatchLookupRequest(
        lookups=[cache_pb2.Lookup(tenant_id=tenant, request_hash=HASH)]
    )


async def test_an_answer_comes_back_as_it_was_stored(world: World) -> None:
    assert (await world.stub.BatchStore(store_request())).stored_count == 1
    found = await world.stub.BatchLookup(lookup_request())
    assert found.results[0].answer == ANSWER
    missed = await world.stub.BatchLookup(lookup_request("globex"))
    assert not missed.results[0].HasField("answer")


async def test_a_time_to_live_above_the_limit_is_cut_to_it(world: World) -> None:
    await world.stub.BatchStore(store_request(ttl_ms=10**12))
    world.clock.advance(POLICY.max_ttl_ms / 1000 - 0.001)
    assert (await world.stub.BatchLookup(lookup_request())).results[0].HasField("answer")
    world.clock.advance(0.001)
    assert not (await world.stub.BatchLookup(lookup_request())).results[0].HasField("answer")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (cache_pb2.BatchLookupRequest(), "lookups"),
        (cache_pb2.BatchLookupRequest(lookups=[cache_pb2.Lookup()] * 513), "lookups"),
        (
            cache_pb2.BatchLookupRequest(lookups=[cache_pb2.Lookup(request_hash=HASH)]),
            "lookups[0].tenant_id",
        ),
        (
            cache_pb2.BatchLookupRequest(
                lookups=[cache_pb2.Lookup(tenant_id="acme", request_hash=b"short")]
            ),
            "lookups[0].request_hash",
        ),
        (cache_pb2.BatchStoreRequest(), "stores"),
        (store_request(ttl_ms=-1), "stores[0].ttl_ms"),
        (
            store_request(
                answer=cache_pb2.CachedAnswer(finish_reason=common_pb2.FINISH_REASON_BUDGET)
            ),
            "stores[0].answer.finish_reason",
        ),
    ],
)
async def test_a_bad_request_names_its_field(
    world: World,
    request_: cache_pb2.BatchLookupRequest | cache_pb2.BatchStoreRequest,
    field: str,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if isinstance(request_, cache_pb2.BatchLookupRequest):
            await world.stub.BatchLookup(request_)
        else:
            await world.stub.BatchStore(request_)
    error = decode_error(caught.value)
    assert isinstance(error, InvalidArgument)
    assert error.field == field


async def test_administration_needs_an_administrators_key(world: World) -> None:
    await world.stub.BatchStore(store_request())
    request = cache_pb2.InvalidateRequest(tenant_id="acme")
    for api_key, expected in ((None, Unauthenticated), ("fk-user", PermissionDenied)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.Invalidate(request, metadata=outgoing_metadata(None, api_key))
        assert isinstance(decode_error(caught.value), expected)
    admin = outgoing_metadata(None, "fk-admin")
    assert (await world.stub.Invalidate(request, metadata=admin)).removed_count == 1
    stats = await world.stub.GetStats(cache_pb2.GetStatsRequest(), metadata=admin)
    assert (stats.entry_count, stats.capacity_bytes) == (0, POLICY.capacity_bytes)


async def test_the_client_finds_shared_answers_once_and_then_locally(world: World) -> None:
    await world.stub.BatchStore(store_request())
    client = RemoteCacheClient(world.channel, OPTIONS, clock=world.clock)
    first = await client.lookup("acme", HASH)
    second = await client.lookup("acme", HASH)
    assert first is not None
    assert second is not None
    assert (first.level, second.level) == ("shared", "local")
    assert first.answer == ANSWER == second.answer
    assert await client.lookup("globex", HASH) is None
    assert world.store.stats().hit_count == 1
    await client.close()


async def test_what_a_client_stores_another_client_finds(world: World) -> None:
    writer = RemoteCacheClient(world.channel, OPTIONS, clock=world.clock)
    reader = RemoteCacheClient(world.channel, OPTIONS, clock=world.clock)
    writer.store("acme", HASH, ANSWER)
    await writer.close()
    found = await reader.lookup("acme", HASH)
    assert found is not None
    assert found.level == "shared"
    await reader.close()


async def test_simultaneous_lookups_share_calls(world: World) -> None:
    calls: list[int] = []
    client = RemoteCacheClient(world.channel, OPTIONS, clock=world.clock)
    inner = client._send_lookups

    async def counted(keys: object) -> list[cache_pb2.CachedAnswer | None]:
        calls.append(len(keys))  # type: ignore[arg-type]
        return await inner(keys)  # type: ignore[arg-type]

    client._lookups._send = counted
    hashes = [number.to_bytes(32) for number in range(200)]
    found = await asyncio.gather(*(client.lookup("acme", one) for one in hashes))
    assert found == [None] * 200
    assert sum(calls) == 200
    assert len(calls) < 20
    await client.close()


async def test_without_a_service_lookups_miss_and_then_do_not_even_ask() -> None:
    clock = FakeClock()
    clock.advance(100)
    async with open_channel(f"127.0.0.1:{free_port()}") as channel:
        client = RemoteCacheClient(channel, OPTIONS, clock=clock)
        assert await client.lookup("acme", HASH) is None
        client.store("acme", HASH, ANSWER)
        await eventually(lambda: client.dropped_store_count == 1)
        hit = await client.lookup("acme", HASH)
        assert hit is not None
        assert hit.level == "local"
        assert client._lookups.queue_count == 0
        await client.close()


async def test_a_hung_service_is_a_miss_at_the_deadline() -> None:
    class Hung(CacheServicer):
        async def BatchLookup(
            self, request: cache_pb2.BatchLookupRequest, context: object
        ) -> cache_pb2.BatchLookupResponse:
            await asyncio.Event().wait()
            raise AssertionError

    options = CacheClientOptions(lookup_timeout_s=0.05)
    hung = Hung(
        MemoryCacheStore(POLICY),
        POLICY,
        KeyFeed(),
        clock=FakeClock(),
        require_admin=require_admin,
    )
    async with serve((cache_pb2_grpc.add_CacheServiceServicer_to_server, hung)) as (
        channel,
        _,
    ):
        client = RemoteCacheClient(channel, options, clock=FakeClock())
        assert await client.lookup("acme", HASH) is None
        await client.close()


async def test_the_local_level_expires_and_keeps_tenants_apart() -> None:
    clock = FakeClock()
    client = InMemoryCacheClient(CacheClientOptions(local_ttl_ms=1_000), clock=clock)
    client.store("acme", HASH, ANSWER)
    assert await client.lookup("globex", HASH) is None
    assert await client.lookup("acme", HASH) is not None
    clock.advance(1.0)
    assert await client.lookup("acme", HASH) is None
