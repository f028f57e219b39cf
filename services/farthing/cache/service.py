"""CacheService on the wire: decode, ask the store, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.api.common.v1 import common_pb2
from farthing.cache import core
from farthing.cache.key_feed import KeyFeed, split_keys
from farthing.cache.store import CacheStore
from farthing.clients.bounded_index import Key
from farthing.kit.clock import Clock
from farthing.kit.errors import InvalidArgument
from farthing.kit.rpc import context as call_context

# Raises unless the key digest belongs to an administrator.
RequireAdmin = Callable[[bytes], Awaitable[None]]
_Context = grpc.aio.ServicerContext[Any, Any]
_WHOLE = (common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH)


class CacheServicer(cache_pb2_grpc.CacheServiceServicer):
    """See cache.proto. Lookups and stores are for farthing's own services, which name the tenant they authenticated."""

    def __init__(
        self,
        store: CacheStore,
        policy: core.Policy,
        feed: KeyFeed,
        *,
        clock: Clock,
        require_admin: RequireAdmin,
    ) -> None:
        self._store, self._policy, self._feed, self._clock = store, policy, feed, clock
        self._require_admin = require_admin

    async def BatchLookup(
        self, request: cache_pb2.BatchLookupRequest, context: _Context
    ) -> cache_pb2.BatchLookupResponse:
        """See cache.proto."""
        core.check_batch_count(len(request.lookups), "lookups")
        keys = [Key(item.tenant_id, item.request_hash) for item in request.lookups]
        core.check_keys(keys, "lookups")
        spans = call_context.current().start_items(item.traceparent for item in request.lookups)
        response = cache_pb2.BatchLookupResponse()
        try:
            for payload in await self._store.lookup(keys, self._now_ms()):
                result = response.results.add()
                if payload is not None:
                    result.answer.ParseFromString(payload)
        finally:
            for span in spans:
                span.end()
        return response

    async def BatchStore(
        self, request: cache_pb2.BatchStoreRequest, context: _Context
    ) -> cache_pb2.BatchStoreResponse:
        """See cache.proto."""
        core.check_batch_count(len(request.stores), "stores")
        now_ms = self._now_ms()
        answers = [
            self._decode(item, now_ms, place) for place, item in enumerate(request.stores)
        ]
        keys = [answer.key for answer in answers]
        core.check_keys(keys, "stores")
        try:
            stored_count = await self._store.store(answers, now_ms)
        finally:
            # Also when it failed or was given up half-way: a key too many costs a lookup, one too few an answer.
            self._feed.publish(keys)
        return cache_pb2.BatchStoreResponse(stored_count=stored_count)

    async def WatchKeys(
        self, request: cache_pb2.WatchKeysRequest, context: _Context
    ) -> AsyncIterator[cache_pb2.WatchKeysResponse]:
        """See cache.proto."""
        # The watch begins before the keys are read, so that none is stored between the two.
        async with self._feed.watch() as additions:
            keys = self._store.keys()
            entry_count = len(keys)
            for prefixes in split_keys(keys):
                yield cache_pb2.WatchKeysResponse(
                    key_prefixes=prefixes, entry_count=entry_count
                )
            del keys
            yield cache_pb2.WatchKeysResponse(snapshot_complete=True, entry_count=entry_count)
            async for prefixes in additions:
                yield cache_pb2.WatchKeysResponse(
                    key_prefixes=prefixes, snapshot_complete=True, entry_count=entry_count
                )

    async def Invalidate(
        self, request: cache_pb2.InvalidateRequest, context: _Context
    ) -> cache_pb2.InvalidateResponse:
        """See cache.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        core.check_tenant(request.tenant_id, "tenant_id")
        removed_count = await self._store.invalidate(request.tenant_id, request.model)
        return cache_pb2.InvalidateResponse(removed_count=removed_count)

    async def GetStats(
        self, request: cache_pb2.GetStatsRequest, context: _Context
    ) -> cache_pb2.GetStatsResponse:
        """See cache.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        await self._store.sweep(self._now_ms())
        stats = self._store.stats()
        return cache_pb2.GetStatsResponse(
            entry_count=stats.entry_count,
            size_bytes=stats.size_bytes,
            capacity_bytes=stats.capacity_bytes,
            hit_count=stats.hit_count,
            miss_count=stats.miss_count,
            eviction_count=stats.eviction_count,
            expiration_count=stats.expiration_count,
            saved_nano_usd=stats.saved_nano_usd,
        )

    def _decode(self, item: cache_pb2.Store, now_ms: int, place: int) -> core.NewAnswer:
        if item.answer.finish_reason not in _WHOLE:
            name = common_pb2.FinishReason.Name(item.answer.finish_reason)
            raise InvalidArgument(
                f"stores[{place}].answer.finish_reason is {name}; only whole answers (STOP, LENGTH) are kept",
                field=f"stores[{place}].answer.finish_reason",
            )
        if item.ttl_ms < 0:
            raise InvalidArgument(
                f"stores[{place}].ttl_ms is {item.ttl_ms}; send 0 for the default or more",
                field=f"stores[{place}].ttl_ms",
            )
        return core.NewAnswer(
            key=Key(item.tenant_id, item.request_hash),
            payload=item.answer.SerializeToString(),
            model=item.answer.model,
            cost_nano_usd=item.answer.cost_nano_usd,
            expire_ms=core.expire_ms(self._policy, item.ttl_ms, now_ms),
        )

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000
