"""Where answers are kept: the interface, and the implementation in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from farthing.cache.core import Held, NewAnswer, Policy, Stats, size_of
from farthing.clients.bounded_index import BoundedIndex, Key


class CacheStore(Protocol):
    """Keeps answers within a policy. Times are milliseconds since 1970 and never run backwards.

    Called from one event loop. Nothing returned by `lookup` is expired, of another tenant, or older than the newest
    answer stored under its key; the bytes held never pass the policy's bounds.
    """

    async def open(self) -> None:
        """Get ready; what was kept before and has not expired is there again if the store is durable."""
        ...

    async def close(self) -> None:
        """Write what is left to write."""
        ...

    async def lookup(self, keys: Sequence[Key], now_ms: int) -> list[bytes | None]:
        """The payloads, in the order of `keys`; None for a miss. A miss is also the answer when reading fails."""
        ...

    async def store(self, answers: Sequence[NewAnswer], now_ms: int) -> int:
        """Keep answers, the newest wins; returns how many were taken. Unavailable when writing fails."""
        ...

    async def invalidate(self, tenant_id: str, model: str) -> int:
        """Forget a tenant's answers, or those of one model; returns how many."""
        ...

    async def sweep(self, now_ms: int) -> None:
        """Forget what has expired."""
        ...

    def keys(self) -> tuple[Key, ...]:
        """The keys of every entry that `lookup` may find, and perhaps of some that have just expired."""
        ...

    def stats(self) -> Stats:
        """Counts since `open`, sizes now."""
        ...


class Counters:
    """Counts that every store keeps alike."""

    def __init__(self) -> None:
        self.hit_count = 0
        self.miss_count = 0
        self.eviction_count = 0
        self.expiration_count = 0
        self.saved_nano_usd = 0

    def hit(self, cost_nano_usd: int) -> None:
        """An answer was given again."""
        self.hit_count += 1
        self.saved_nano_usd += cost_nano_usd

    def stats(self, index: BoundedIndex[Held], policy: Policy) -> Stats:
        """The counts with the index's sizes."""
        return Stats(
            entry_count=len(index),
            size_bytes=index.size_bytes,
            capacity_bytes=policy.capacity_bytes,
            hit_count=self.hit_count,
            miss_count=self.miss_count,
            eviction_count=self.eviction_count,
            expiration_count=self.expiration_count,
            saved_nano_usd=self.saved_nano_usd,
        )


class MemoryCacheStore:
    """Keeps answers in this process alone."""

    def __init__(self, policy: Policy) -> None:
        policy.check()
        self._policy = policy
        self._index: BoundedIndex[Held] = BoundedIndex(policy.bounds())
        self._counters = Counters()

    async def open(self) -> None:
        """See CacheStore."""

    async def close(self) -> None:
        """See CacheStore."""

    async def lookup(self, keys: Sequence[Key], now_ms: int) -> list[bytes | None]:
        """See CacheStore."""
        found: list[bytes | None] = []
        for key in keys:
            entry = self._index.get(key, now_ms)
            if entry is None:
                self._counters.miss_count += 1
                found.append(None)
            else:
                self._counters.hit(entry.value.cost_nano_usd)
                found.append(entry.value.payload)
        return found

    async def store(self, answers: Sequence[NewAnswer], now_ms: int) -> int:
        """See CacheStore."""
        taken_count = 0
        for answer in answers:
            put = self._index.put(
                answer.key,
                Held(answer.model, answer.cost_nano_usd, answer.payload),
                size_bytes=size_of(answer.payload),
                expire_ms=answer.expire_ms,
                now_ms=now_ms,
            )
            taken_count += put.taken
            self._counters.eviction_count += len(put.evicted)
            self._counters.expiration_count += len(put.expired)
        return taken_count

    async def invalidate(self, tenant_id: str, model: str) -> int:
        """See CacheStore."""
        keys = list(matching_keys(self._index, tenant_id, model))
        for key in keys:
            self._index.remove(key)
        return len(keys)

    async def sweep(self, now_ms: int) -> None:
        """See CacheStore."""
        self._counters.expiration_count += len(self._index.sweep(now_ms))

    def keys(self) -> tuple[Key, ...]:
        """See CacheStore."""
        return self._index.keys()

    def stats(self) -> Stats:
        """See CacheStore."""
        return self._counters.stats(self._index, self._policy)


def matching_keys(index: BoundedIndex[Held], tenant_id: str, model: str) -> Iterable[Key]:
    """A tenant's keys, or those whose answer `model` made."""
    for key in index.keys_of(tenant_id):
        entry = index.peek(key)
        if entry is not None and (not model or entry.value.model == model):
            yield key
