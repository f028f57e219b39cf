"""Every knob of the cache service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.cache.core import Policy
from farthing.kit.settings import ServiceSettings, setting


@dataclass(frozen=True, slots=True)
class CacheSettings(ServiceSettings):
    """See ServiceSettings for what every service shares."""

    port: int = setting(50052, env="FARTHING_PORT", doc="gRPC port.")
    capacity_bytes: int = setting(
        256 * 1024 * 1024,
        env="FARTHING_CACHE_CAPACITY_BYTES",
        doc="Most that all answers together may take on disk, their overhead included.",
        unit="bytes",
    )
    memory_bytes: int = setting(
        64 * 1024 * 1024,
        env="FARTHING_CACHE_MEMORY_BYTES",
        doc="Most that answers may take in memory; the rest is read from disk.",
        unit="bytes",
    )
    max_entry_bytes: int = setting(
        1024 * 1024,
        env="FARTHING_CACHE_MAX_ENTRY_BYTES",
        doc="Largest answer that is kept.",
        unit="bytes",
    )
    tenant_share_ratio: float = setting(
        0.5,
        env="FARTHING_CACHE_TENANT_SHARE_RATIO",
        doc="Largest part of the capacity that one organisation may fill, above 0 and up to 1.",
        unit="ratio",
    )
    default_ttl_ms: int = setting(
        24 * 3_600_000,
        env="FARTHING_CACHE_DEFAULT_TTL_MS",
        doc="Life of an answer stored without one.",
        unit="ms",
    )
    max_ttl_ms: int = setting(
        30 * 24 * 3_600_000,
        env="FARTHING_CACHE_MAX_TTL_MS",
        doc="Longest life of an answer.",
        unit="ms",
    )
    sweep_ms: int = setting(
        30_000,
        env="FARTHING_CACHE_SWEEP_MS",
        doc="Time between two removals of expired answers.",
        unit="ms",
    )

    def policy(self) -> Policy:
        """The limits as the core takes them."""
        return Policy(
            capacity_bytes=self.capacity_bytes,
            max_entry_bytes=self.max_entry_bytes,
            tenant_share_ratio=self.tenant_share_ratio,
            default_ttl_ms=self.default_ttl_ms,
            max_ttl_ms=self.max_ttl_ms,
        )
