"""Misses that a client knows without asking: the keys followed over a real socket, and every way in which that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from tests.cache.conftest import answer, key

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.api.common.v1 import common_pb2
from farthing.cache.core import Policy
from farthing.cache.key_feed import FeedOptions, KeyFeed
from farthing.cache.service import CacheServicer
from farthing.cache.store import MemoryCacheStore
from farthing.clients.cache import CacheClientOptions, CacheHit, RemoteCacheClient
from farthing.clients.discovered_channel import DiscoveredChannel
from farthing.clients.key_filter import prefix_of
from farthing.kit.discovery import Instance, ServiceWatch
from farthing.kit.errors import ResourceExhausted
from farthing.kit.rpc.channel import decode_error, open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder
from farthing.kit.testing import FakeClock, eventually, free_port

ROOMY = Policy(
    capacity_bytes=50_000_000,
    max_entry_bytes=4_000,
    tenant_share_ratio=1.0,
    default_ttl_ms=3_600_000,
    max_ttl_ms=3_600_000,
)
# No first level, so that only the service can know; patient for loaded machines.
OPTIONS = CacheClientOptions(local_bytes=0, lookup_timeout_s=5.0)
ANSWER = cache_pb2.CachedAnswer(text="42", finish_reason=common_pb2.FINISH_REASON_STOP)


class Counted(CacheServicer):
    """The service, and how many lookups reached it."""

    lookup_count = 0

    async def BatchLookup(self, request: Any, context: Any) -> cache_pb2.BatchLookupResponse:
        self.lookup_count += len(request.lookups)
        return await super().BatchLookup(request, context)


class Site:
    """A cache service that can be stopped and started at its address; its store stays."""

    def __init__(self, stack: AsyncExitStack, clock: FakeClock) -> None:
        self._stack, self._clock = stack, clock
        self.address = f"127.0.0.1:{free_port()}"
        self.store = MemoryCacheStore(ROOMY)
        self.feed: KeyFeed
        self.servicer: Counted
        self._server: RpcServer | None = None
        stack.push_async_callback(self.stop)

    async def start(self, *, drain_ms: int = 0, **feed_options: Any) -> None:
        self.feed = KeyFeed(
            FeedOptions(**{"linger_s": 0.01, "keep_alive_s": 0.2} | feed_options)
        )
        self.servicer = Counted(
            self.store, ROOMY, self.feed, clock=self._clock, require_admin=_refuse
        )
        self._server = RpcServer(
            self.address, recorder=NullRecorder(), metrics=Metrics("test"), drain_ms=drain_ms
        )
        self._server.add(
            cache_pb2_grpc.add_CacheServiceServicer_to_server,
            self.servicer,
            end_streams=self.feed.close,
        )
        await self._server.start()
        await self._server.set_serving()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop()

    async def keep(self, tenant: str, number: int) -> None:
        """Store an entry as an earlier run of the service did."""
        await self.store.store([answer(tenant, number, payload=ANSWER.SerializeToString(),
                                       expire_ms=self._clock.time_ns() // 10**6 + 10**6)],
                               self._clock.time_ns() // 10**6)  # fmt: skip

    async def connect(self) -> grpc.aio.Channel:
        return await self._stack.enter_async_context(open_channel(self.address))

    async def client(self, channel: grpc.aio.Channel | None = None) -> RemoteCacheClient:
        """A router's client; it follows the keys from its first lookup on."""
        client = RemoteCacheClient(channel or await self.connect(), OPTIONS, clock=self._clock)
        self._stack.push_async_callback(client.close)
        return client

    async def follower(self, channel: grpc.aio.Channel | None = None) -> RemoteCacheClient:
        """A client that knows the keys."""
        client = await self.client(channel)
        await find(client, "nobody", 0)
        await knows(client)
        return client


async def _refuse(key_digest: bytes) -> None:
    raise AssertionError


async def find(client: RemoteCacheClient, tenant: str, number: int) -> CacheHit | None:
    return await client.lookup(tenant, key(tenant, number).request_hash)


async def knows(client: RemoteCacheClient, usable: bool = True) -> None:
    await eventually(lambda: client._known_keys.usable is usable, timeout_s=30)


async def read(call: Any) -> cache_pb2.WatchKeysResponse:
    """The next message; a stream that ends says so by another type."""
    message = await call.read()
    assert isinstance(message, cache_pb2.WatchKeysResponse)
    return message


@pytest.fixture
async def clock() -> FakeClock:
    clock = FakeClock()
    clock.advance(100)
    return clock


@pytest.fixture
async def site(clock: FakeClock) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(stack, clock)


async def test_a_miss_is_known_without_asking_and_a_hit_is_found(site: Site) -> None:
    await site.start()
    await site.keep("acme", 1)
    client = await site.follower()
    asked_count = site.servicer.lookup_count
    assert await find(client, "acme", 2) is None
    assert (client.local_miss_count, site.servicer.lookup_count) == (1, asked_count)
    found = await find(client, "acme", 1)
    assert found is not None
    assert found.answer == ANSWER
    assert site.servicer.lookup_count == asked_count + 1


async def test_every_entry_of_every_tenant_is_found_and_no_other_tenants(site: Site) -> None:
    """More entries than one message of the snapshot takes."""
    tenants = ("acme", "globex", "müller & söhne")
    await site.start()
    for number in range(500):
        for tenant in tenants:
            await site.keep(tenant, number)
    client = await site.follower()
    for tenant in tenants:
        found = await asyncio.gather(*(find(client, tenant, number) for number in range(500)))
        assert all(hit is not None for hit in found)
    assert client.local_miss_count == 0
    assert await find(client, "initech", 1) is None


async def test_what_another_router_stores_is_found_after_the_next_message(site: Site) -> None:
    await site.start()
    reader, writer = await site.follower(), await site.client()
    assert await find(reader, "acme", 1) is None
    writer.store("acme", key("acme", 1).request_hash, ANSWER)
    await eventually(lambda: find(reader, "acme", 1))
    assert await find(reader, "globex", 1) is None


async def test_what_a_client_stores_itself_it_asks_for_at_once(site: Site) -> None:
    await site.start(linger_s=60.0)
    client = await site.follower()
    client.store("acme", key("acme", 1).request_hash, ANSWER)
    assert not client._known_keys.excludes("acme", key("acme", 1).request_hash)
    await eventually(lambda: find(client, "acme", 1))


async def test_while_the_service_is_down_nothing_is_taken_for_known(site: Site) -> None:
    await site.start()
    client = await site.follower()
    await site.stop()
    await knows(client, False)
    count = client.local_miss_count
    assert await find(client, "acme", 1) is None
    assert client.local_miss_count == count


async def test_after_a_restart_the_keys_are_known_anew(site: Site, clock: FakeClock) -> None:
    await site.start()
    client = await site.follower()
    await site.stop()
    await knows(client, False)
    await site.keep("acme", 1)
    await site.start()
    await knows(client)
    clock.advance(2)  # past the pause after a failed lookup
    assert await find(client, "acme", 2) is None
    assert client.local_miss_count > 0
    await eventually(lambda: find(client, "acme", 1))


async def test_a_draining_service_ends_the_streams_instead_of_waiting(site: Site) -> None:
    await site.start(drain_ms=60_000)
    client = await site.follower()
    await asyncio.wait_for(site.stop(), 30)
    await knows(client, False)


async def test_keys_heard_of_more_than_three_seconds_ago_prove_nothing(
    site: Site, clock: FakeClock
) -> None:
    await site.start()
    client = await site.follower()
    absent = key("acme", 1).request_hash
    assert client._known_keys.excludes("acme", absent)
    clock.advance(3.1)
    assert not client._known_keys.excludes("acme", absent)
    await knows(client)  # the next sign of life


async def test_each_hour_what_is_gone_is_forgotten(site: Site, clock: FakeClock) -> None:
    await site.start()
    await site.keep("acme", 1)
    client = await site.follower()
    gone = key("acme", 1).request_hash
    await site.store.invalidate("acme", "")
    assert not client._known_keys.excludes("acme", gone)
    clock.advance(3601)
    await eventually(lambda: client._known_keys.excludes("acme", gone), timeout_s=30)


async def test_a_watcher_that_is_cut_off_is_told_and_watches_anew(site: Site) -> None:
    await site.start(waiting_limit_bytes=800)
    client = await site.follower()
    stub = cache_pb2_grpc.CacheServiceStub(await site.connect())
    call = stub.WatchKeys(cache_pb2.WatchKeysRequest())
    assert (await read(call)).snapshot_complete
    await site.keep("acme", 50)
    site.feed.publish([key("acme", number) for number in range(101)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    error = decode_error(caught.value)
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "WATCHER_TOO_SLOW"
    # The client was cut off as well; it knows no less for it.
    await eventually(lambda: find(client, "acme", 50), timeout_s=30)
    await knows(client)


async def test_the_stream_tells_prefixes_first_those_held_then_those_added(site: Site) -> None:
    await site.start()
    for number in range(1_500):
        await site.keep("acme", number)
    stub = cache_pb2_grpc.CacheServiceStub(await site.connect())
    call = stub.WatchKeys(cache_pb2.WatchKeysRequest())
    told = b""
    while not (message := await read(call)).snapshot_complete:
        assert message.entry_count == 1_500
        assert 0 < len(message.key_prefixes) <= 64 * 1024
        told += message.key_prefixes
    assert told == b"".join(prefix_of(*key("acme", number)) for number in range(1_500))
    await stub.BatchStore(
        cache_pb2.BatchStoreRequest(
            stores=[
                cache_pb2.Store(
                    tenant_id="globex",
                    request_hash=key("globex", 7).request_hash,
                    answer=ANSWER,
                )
            ]
        )
    )
    while not (message := await read(call)).key_prefixes:
        assert message.snapshot_complete
    assert message.key_prefixes == prefix_of(*key("globex", 7))
    call.cancel()


async def test_with_several_instances_every_key_is_asked_for(
    site: Site, clock: FakeClock
) -> None:
    await site.start()
    watch = ServiceWatch("cache")
    one = Instance("one", "cache", site.address, "here")
    other = Instance("other", "cache", f"127.0.0.1:{free_port()}", "here")
    watch.publish({"one": one}, 0.0)
    async with DiscoveredChannel(watch, region="here") as channel:
        client = await site.follower(channel)
        absent = key("acme", 1).request_hash
        assert client._known_keys.excludes("acme", absent)
        watch.publish({"one": one, "other": other}, 0.0)
        assert not client._known_keys.excludes("acme", absent)
        watch.publish({"other": other}, 0.0)
        assert not client._known_keys.excludes("acme", absent)
        watch.publish({"one": one}, 0.0)
        await knows(client)
        assert client._known_keys.excludes("acme", absent)
        await client.close()
