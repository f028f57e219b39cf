"""What may be kept, for how long and at what size: the rules of the cache, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farthing.clients.bounded_index import Bounds, Key
from farthing.kit.errors import InvalidArgument

HASH_BYTES = 32
BATCH_LIMIT_COUNT = 512
TENANT_ID_LIMIT = 128
# What one entry costs beyond its payload: index, keys and row. Measured on CPython 3.11: about 600 bytes.
ENTRY_OVERHEAD_BYTES = 640


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits the operator sets. Times in milliseconds; the share is of the capacity, 0..1."""

    capacity_bytes: int
    max_entry_bytes: int
    tenant_share_ratio: float
    default_ttl_ms: int
    max_ttl_ms: int

    def bounds(self) -> Bounds:
        """The same as limits in bytes."""
        return Bounds(
            capacity_bytes=self.capacity_bytes,
            tenant_bytes=int(self.capacity_bytes * self.tenant_share_ratio),
            entry_bytes=self.max_entry_bytes + ENTRY_OVERHEAD_BYTES,
        )

    def check(self) -> None:
        """InvalidArgument when the limits contradict each other."""
        if not 0 < self.tenant_share_ratio <= 1:
            raise InvalidArgument(
                "tenant_share_ratio must be above 0 and at most 1", field="tenant_share_ratio"
            )
        if not 0 < self.default_ttl_ms <= self.max_ttl_ms:
            raise InvalidArgument(
                "default_ttl_ms must be above 0 and at most max_ttl_ms", field="default_ttl_ms"
            )
        if self.max_entry_bytes + ENTRY_OVERHEAD_BYTES > self.bounds().tenant_bytes:
            raise InvalidArgument(
                "max_entry_bytes does not fit into one tenant's share of capacity_bytes",
                field="max_entry_bytes",
            )


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer to keep. `payload` is opaque; `cost_nano_usd` is what making it cost."""

    key: Key
    payload: bytes
    model: str
    cost_nano_usd: int
    expire_ms: int


@dataclass(frozen=True, slots=True)
class Held:
    """What an index knows of a kept answer. `payload` is None where it lies on disk alone."""

    model: str
    cost_nano_usd: int
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the start, sizes now. Money in nano-USD."""

    entry_count: int = 0
    size_bytes: int = 0
    capacity_bytes: int = 0
    hit_count: int = 0
    miss_count: int = 0
    eviction_count: int = 0
    expiration_count: int = 0
    saved_nano_usd: int = 0


def size_of(payload: bytes) -> int:
    """What keeping `payload` costs, bytes, overhead included."""
    return len(payload) + ENTRY_OVERHEAD_BYTES


def expire_ms(policy: Policy, ttl_ms: int, now_ms: int) -> int:
    """When an entry stored now ends: 0 takes the default, more than the limit is cut to it."""
    return now_ms + min(ttl_ms or policy.default_ttl_ms, policy.max_ttl_ms)


def check_batch_count(count: int, field: str) -> None:
    """InvalidArgument unless a batch has 1..512 items."""
    if not 1 <= count <= BATCH_LIMIT_COUNT:
        raise InvalidArgument(
            f"{field} has {count} items; send 1 to {BATCH_LIMIT_COUNT}",
            field=field,
            metadata={"count": str(count)},
        )


def check_tenant(tenant_id: str, field: str) -> None:
    """InvalidArgument unless `tenant_id` names a tenant."""
    if not tenant_id or len(tenant_id) > TENANT_ID_LIMIT:
        raise InvalidArgument(
            f"{field} must be 1 to {TENANT_ID_LIMIT} characters: the organisation's id",
            field=field,
        )


def check_keys(keys: Sequence[Key], field: str) -> None:
    """InvalidArgument naming the first key that has no tenant or a hash of another length than SHA-256's."""
    for position, key in enumerate(keys):
        check_tenant(key.tenant_id, f"{field}[{position}].tenant_id")
        if len(key.request_hash) != HASH_BYTES:
            raise InvalidArgument(
                f"{field}[{position}].request_hash has {len(key.request_hash)} bytes; "
                f"send the {HASH_BYTES} bytes of a SHA-256",
                field=f"{field}[{position}].request_hash",
            )
