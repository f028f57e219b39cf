"""The answer cache as the router uses it: this process's memory first, then the cache service, never in the way."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

import grpc

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.clients.batching import MicroBatcher
from farthing.clients.bounded_index import BoundedIndex, Bounds, Key
from farthing.clients.key_watch import KeyWatch
from farthing.clients.wire import as_it_is, nested_field, repeat_field_one
from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError
from farthing.kit.rpc.channel import batch_metadata

Level = Literal["local", "shared"]
_OVERHEAD_BYTES = 640  # index and objects of one entry beside its serialised size
_BATCH_LIMIT_COUNT = 512
_STORE_LINGER_S = 0.1
_ANSWER_FIELD = cache_pb2.Store.ANSWER_FIELD_NUMBER
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheHit:
    """An answer that was paid for before, and where it was found."""

    answer: cache_pb2.CachedAnswer
    level: Level


@dataclass(frozen=True, slots=True)
class CacheClientOptions:
    """Limits of a client. The tenant's share is of `local_bytes`, 0..1."""

    local_bytes: int = 32 * 1024 * 1024
    local_ttl_ms: int = 60_000
    tenant_share_ratio: float = 0.5
    lookup_timeout_s: float = 0.05
    store_timeout_s: float = 5.0
    pause_s: float = 1.0
    waiting_store_limit_count: int = 1024


class Absent(Enum):
    """A miss that is certain."""

    ABSENT = 0


ABSENT = Absent.ABSENT


class CacheClient(Protocol):
    """What the router needs of a cache. Neither call ever raises: trouble is a miss, or an answer not kept."""

    def peek(self, tenant_id: str, request_hash: bytes) -> CacheHit | Absent | None:
        """What is known without asking anybody: the answer, that there is none, or None: only `lookup` can tell."""
        ...

    async def lookup(
        self, tenant_id: str, request_hash: bytes, *, traceparent: str = ""
    ) -> CacheHit | None:
        """The tenant's live answer to the request, or None, within the lookup deadline.

        `traceparent` (W3C) says in which trace the service shows the lookup; "" in none.
        """
        ...

    def store(
        self,
        tenant_id: str,
        request_hash: bytes,
        answer: cache_pb2.CachedAnswer,
        *,
        ttl_ms: int = 0,
    ) -> None:
        """Keep a whole answer, which the caller no longer changes. `ttl_ms` 0 takes the service's default."""
        ...

    async def close(self) -> None:
        """Send what waits, then stop."""
        ...


class LocalCache:
    """The first level: bounded in bytes, fair among tenants, short-lived so that an invalidation soon reaches it."""

    def __init__(self, options: CacheClientOptions, *, clock: Clock) -> None:
        share_bytes = int(options.local_bytes * options.tenant_share_ratio)
        self._index: BoundedIndex[bytes] = BoundedIndex(
            Bounds(options.local_bytes, share_bytes, share_bytes)
        )
        self._ttl_ms = options.local_ttl_ms
        self._clock = clock

    def get(self, key: Key) -> cache_pb2.CachedAnswer | None:
        """The live answer at `key`."""
        entry = self._index.get(key, self._now_ms())
        return cache_pb2.CachedAnswer.FromString(entry.value) if entry is not None else None

    def put(self, key: Key, answer: bytes, *, ttl_ms: int = 0) -> None:
        """Keep a serialised answer for the level's own time to live, or `ttl_ms` if that is shorter."""
        now_ms = self._now_ms()
        life_ms = min(ttl_ms or self._ttl_ms, self._ttl_ms)
        self._index.put(
            key,
            answer,
            size_bytes=len(answer) + _OVERHEAD_BYTES,
            expire_ms=now_ms + life_ms,
            now_ms=now_ms,
        )

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)


class InMemoryCacheClient:
    """CacheClient without a service: the first level alone. For tests and for sites that run no cache service."""

    def __init__(self, options: CacheClientOptions, *, clock: Clock) -> None:
        self._local = LocalCache(options, clock=clock)

    def peek(self, tenant_id: str, request_hash: bytes) -> CacheHit | Absent | None:
        """See CacheClient. Always knows."""
        answer = self._local.get(Key(tenant_id, request_hash))
        return CacheHit(answer, "local") if answer is not None else ABSENT

    async def lookup(
        self, tenant_id: str, request_hash: bytes, *, traceparent: str = ""
    ) -> CacheHit | None:
        """See CacheClient."""
        known = self.peek(tenant_id, request_hash)
        return known if isinstance(known, CacheHit) else None

    def store(
        self,
        tenant_id: str,
        request_hash: bytes,
        answer: cache_pb2.CachedAnswer,
        *,
        ttl_ms: int = 0,
    ) -> None:
        """See CacheClient."""
        self._local.put(Key(tenant_id, request_hash), answer.SerializeToString(), ttl_ms=ttl_ms)

    async def close(self) -> None:
        """See CacheClient."""


class RemoteCacheClient:
    """CacheClient over a channel to the cache service; lookups and stores travel in micro-batches.

    Follows the keys that the service holds, from the first lookup on: a key it does not hold is not asked for.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        options: CacheClientOptions,
        *,
        clock: Clock,
    ) -> None:
        self._options = options
        self._stub = cache_pb2_grpc.CacheServiceStub(channel)
        self._batch_store = channel.unary_unary(
            "/farthing.api.cache.v1.CacheService/BatchStore",
            request_serializer=as_it_is,
            response_deserializer=cache_pb2.BatchStoreResponse.FromString,
        )
        self._local = LocalCache(options, clock=clock)
        self._lookups: MicroBatcher[cache_pb2.Lookup, cache_pb2.CachedAnswer | None] = (
            MicroBatcher(self._send_lookups, max_batch_count=_BATCH_LIMIT_COUNT)
        )
        self._known_keys = KeyWatch(channel, clock=clock)
        self._stores: deque[bytes] = deque()  # encoded entries, each once and for good
        self._sender: asyncio.Task[None] | None = None
        self._clock = clock
        self._reachable = True
        self._resume_s = 0.0
        self.dropped_store_count = 0
        self.local_miss_count = 0
        """Lookups that the service was not asked for, because it surely had nothing."""

    def peek(self, tenant_id: str, request_hash: bytes) -> CacheHit | Absent | None:
        """See CacheClient. Certain of a miss where the service holds no such key, or does not answer at present."""
        local = self._local.get(Key(tenant_id, request_hash))
        if local is not None:
            return CacheHit(local, "local")
        self._known_keys.start()
        if self._known_keys.excludes(tenant_id, request_hash):
            self.local_miss_count += 1
            return ABSENT
        return ABSENT if self._clock.monotonic() < self._resume_s else None

    async def lookup(
        self, tenant_id: str, request_hash: bytes, *, traceparent: str = ""
    ) -> CacheHit | None:
        """See CacheClient."""
        known = self.peek(tenant_id, request_hash)
        if known is not None:
            return known if isinstance(known, CacheHit) else None
        key = Key(tenant_id, request_hash)
        try:
            async with asyncio.timeout(self._options.lookup_timeout_s):
                answer = await self._lookups.submit(
                    cache_pb2.Lookup(
                        tenant_id=tenant_id, request_hash=request_hash, traceparent=traceparent
                    )
                )
        except (TimeoutError, FarthingError, grpc.aio.AioRpcError) as error:
            self._note_reachable(False, error)
            return None
        self._note_reachable(True, None)
        if answer is None:
            return None
        self._local.put(key, answer.SerializeToString())
        return CacheHit(answer, "shared")

    def store(
        self,
        tenant_id: str,
        request_hash: bytes,
        answer: cache_pb2.CachedAnswer,
        *,
        ttl_ms: int = 0,
    ) -> None:
        """See CacheClient."""
        encoded = answer.SerializeToString()
        self._local.put(Key(tenant_id, request_hash), encoded, ttl_ms=ttl_ms)
        if len(self._stores) >= self._options.waiting_store_limit_count:
            self.dropped_store_count += 1
            return
        named = cache_pb2.Store(tenant_id=tenant_id, request_hash=request_hash, ttl_ms=ttl_ms)
        self._stores.append(named.SerializeToString() + nested_field(_ANSWER_FIELD, encoded))
        self._known_keys.add(tenant_id, request_hash)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_stores())

    async def close(self) -> None:
        """See CacheClient."""
        await self._known_keys.close()
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=self._options.store_timeout_s)
            self._sender.cancel()
        await self._lookups.close()

    async def _send_lookups(
        self, lookups: Sequence[cache_pb2.Lookup]
    ) -> list[cache_pb2.CachedAnswer | None]:
        response = await self._stub.BatchLookup(
            cache_pb2.BatchLookupRequest(lookups=lookups),
            timeout=self._options.lookup_timeout_s,
            metadata=batch_metadata(lookups[0].traceparent),
        )
        return [
            result.answer if result.HasField("answer") else None for result in response.results
        ]

    async def _send_stores(self) -> None:
        while self._stores:
            # Nobody waits for a store: let others join it, for a call costs more than what it carries.
            await asyncio.sleep(_STORE_LINGER_S)
            count = min(len(self._stores), _BATCH_LIMIT_COUNT)
            entries = [self._stores.popleft() for _ in range(count)]
            try:
                await self._batch_store(
                    repeat_field_one(entries), timeout=self._options.store_timeout_s
                )
            except (FarthingError, grpc.aio.AioRpcError) as error:
                self.dropped_store_count += count
                self._note_reachable(False, error)

    def _note_reachable(self, reachable: bool, error: BaseException | None) -> None:
        if not reachable:
            # Each failed lookup costs its request the whole deadline: after one, the next ones do not ask for a while.
            self._resume_s = self._clock.monotonic() + self._options.pause_s
        if reachable == self._reachable:
            return
        self._reachable = reachable
        if reachable:
            _log.info("the cache service answers again")
        else:
            _log.warning(
                "the cache service does not answer in time, going on without: %r", error
            )
