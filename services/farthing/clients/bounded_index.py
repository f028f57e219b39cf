"""The accounting of a cache, pure: recency, times to live, a bound in bytes, and fairness among tenants."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")

_STALE_MARKS_ALLOWED_COUNT = 64


class Key(NamedTuple):
    """An answer's place: the tenant is part of it, so no lookup can cross tenants."""

    tenant_id: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a cache, bytes. One tenant never holds more than `tenant_bytes`, one entry more than `entry_bytes`."""

    capacity_bytes: int
    tenant_bytes: int
    entry_bytes: int


class Entry(NamedTuple, Generic[Value]):
    """What is held. `expire_ms` is the first millisecond at which it is no longer given out."""

    value: Value
    size_bytes: int
    expire_ms: int


class Put(NamedTuple):
    """What a `put` did: whether the entry was taken, and what had to go."""

    taken: bool
    evicted: tuple[Key, ...]
    expired: tuple[Key, ...]


class BoundedIndex(Generic[Value]):
    """Entries by key under `bounds`.

    When room is needed, what has expired goes first, then the least recently used entry of the tenant that holds
    most. A tenant that holds less than its fair share (capacity divided by the number of tenants) therefore loses
    nothing to the others.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._entries: dict[Key, Entry[Value]] = {}
        self._tenants: dict[str, OrderedDict[Key, None]] = {}
        self._tenant_bytes: dict[str, int] = {}
        # Heaps of claims that may have gone stale since; each claim is checked when it comes up.
        self._by_expiry: list[tuple[int, Key]] = []
        self._by_holding: list[tuple[int, str]] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def tenant_size_bytes(self, tenant_id: str) -> int:
        """What one tenant holds."""
        return self._tenant_bytes.get(tenant_id, 0)

    def get(self, key: Key, now_ms: int) -> Entry[Value] | None:
        """The live entry at `key`, which thereby becomes the tenant's most recently used; None if there is none."""
        entry = self._entries.get(key)
        if entry is None or entry.expire_ms <= now_ms:
            return None
        self._tenants[key.tenant_id].move_to_end(key)
        return entry

    def peek(self, key: Key) -> Entry[Value] | None:
        """The entry at `key`, expired or not, without using it."""
        return self._entries.get(key)

    def put(
        self, key: Key, value: Value, *, size_bytes: int, expire_ms: int, now_ms: int
    ) -> Put:
        """Take an entry in place of an earlier one; refused when it is too large or already expired."""
        expired = self.sweep(now_ms)
        largest = min(
            self._bounds.entry_bytes, self._bounds.tenant_bytes, self._bounds.capacity_bytes
        )
        if size_bytes > largest or expire_ms <= now_ms:
            return Put(False, (), expired)
        self.remove(key)
        evicted = self._make_room(key.tenant_id, size_bytes)
        self._entries[key] = Entry(value, size_bytes, expire_ms)
        self._tenants.setdefault(key.tenant_id, OrderedDict())[key] = None
        self._account(key.tenant_id, size_bytes)
        heapq.heappush(self._by_expiry, (expire_ms, key))
        self._compact()
        return Put(True, evicted, expired)

    def remove(self, key: Key) -> bool:
        """Forget one entry; False if it was not there."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        held = self._tenants[key.tenant_id]
        del held[key]
        self._account(key.tenant_id, -entry.size_bytes)
        if not held:
            del self._tenants[key.tenant_id], self._tenant_bytes[key.tenant_id]
        return True

    def keys(self) -> tuple[Key, ...]:
        """Every key, those of expired entries that were not swept included."""
        return tuple(self._entries)

    def keys_of(self, tenant_id: str) -> tuple[Key, ...]:
        """A tenant's keys, least recently used first."""
        return tuple(self._tenants.get(tenant_id, ()))

    def sweep(self, now_ms: int) -> tuple[Key, ...]:
        """Forget what has expired and say what it was."""
        expired = []
        while self._by_expiry and self._by_expiry[0][0] <= now_ms:
            expire_ms, key = heapq.heappop(self._by_expiry)
            entry = self._entries.get(key)
            if entry is not None and entry.expire_ms == expire_ms:
                self.remove(key)
                expired.append(key)
        return tuple(expired)

    def _make_room(self, tenant_id: str, size_bytes: int) -> tuple[Key, ...]:
        evicted = []
        while self.tenant_size_bytes(tenant_id) + size_bytes > self._bounds.tenant_bytes:
            evicted.append(self._evict_oldest(tenant_id))
        while self.size_bytes + size_bytes > self._bounds.capacity_bytes:
            evicted.append(self._evict_oldest(self._largest_tenant(tenant_id, size_bytes)))
        return tuple(evicted)

    def _largest_tenant(self, newcomer_id: str, newcomer_bytes: int) -> str:
        """The tenant that holds most, the newcomer's entry counted as if it were in."""
        while True:
            claim, tenant_id = self._by_holding[0]
            if -claim == self._tenant_bytes.get(tenant_id):
                break
            heapq.heappop(self._by_holding)
        newcomer_held = self.tenant_size_bytes(newcomer_id)
        if newcomer_held and newcomer_held + newcomer_bytes >= -claim:
            return newcomer_id
        return tenant_id

    def _evict_oldest(self, tenant_id: str) -> Key:
        key = next(iter(self._tenants[tenant_id]))
        self.remove(key)
        return key

    def _account(self, tenant_id: str, change_bytes: int) -> None:
        held = self._tenant_bytes.get(tenant_id, 0) + change_bytes
        self._tenant_bytes[tenant_id] = held
        self.size_bytes += change_bytes
        heapq.heappush(self._by_holding, (-held, tenant_id))

    def _compact(self) -> None:
        if len(self._by_expiry) > 2 * len(self._entries) + _STALE_MARKS_ALLOWED_COUNT:
            self._by_expiry = [(entry.expire_ms, key) for key, entry in self._entries.items()]
            heapq.heapify(self._by_expiry)
        if len(self._by_holding) > 2 * len(self._tenants) + _STALE_MARKS_ALLOWED_COUNT:
            self._by_holding = [(-held, tenant) for tenant, held in self._tenant_bytes.items()]
            heapq.heapify(self._by_holding)
