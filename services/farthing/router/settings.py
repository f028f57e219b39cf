"""What an operator can tell the router."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.kit.durability import Synchronous, parse_synchronous
from farthing.kit.settings import ServiceSettings, setting


@dataclass(frozen=True, slots=True)
class RouterSettings(ServiceSettings):
    """See docs/reference/settings.md."""

    port: int = setting(50051, env="FARTHING_PORT", doc="gRPC port.")
    quota_address: str = setting(
        "",
        env="FARTHING_QUOTA_ADDRESS",
        doc="Quota service, host:port; empty finds it by discovery.",
    )
    cache_address: str = setting(
        "",
        env="FARTHING_CACHE_ADDRESS",
        doc="Cache service, host:port; empty finds it by discovery.",
    )
    ledger_address: str = setting(
        "",
        env="FARTHING_LEDGER_ADDRESS",
        doc="Ledger service, host:port; empty finds it by discovery.",
    )
    local_cache_bytes: int = setting(
        8 * 1024 * 1024,
        env="FARTHING_ROUTER_LOCAL_CACHE_BYTES",
        doc="Answers kept in the router's own memory; 0 keeps none.",
        unit="bytes",
    )
    cache_deadline_ms: int = setting(
        50,
        env="FARTHING_ROUTER_CACHE_DEADLINE_MS",
        doc="Longest wait for the cache service; later is a miss.",
        unit="ms",
    )
    quota_deadline_ms: int = setting(
        2_000,
        env="FARTHING_ROUTER_QUOTA_DEADLINE_MS",
        doc="Longest wait for the quota service; later is a refusal.",
        unit="ms",
    )
    synchronous: str = setting(
        "normal",
        env="FARTHING_ROUTER_SYNCHRONOUS",
        doc="How safe a charge is before the client sees its result: normal survives the death of the process; "
        "full the loss of power too, for an fsync per group of requests.",
    )
    coalesce_ms: int = setting(
        20,
        env="FARTHING_ROUTER_COALESCE_MS",
        doc="With many streams open, tokens within this time after the first are sent as one delta; 0 never.",
        unit="ms",
    )
    coalesce_from_streams: int = setting(
        16,
        env="FARTHING_ROUTER_COALESCE_FROM_STREAMS",
        doc="Open streams from which on deltas are coalesced.",
        unit="count",
    )

    def resolve_synchronous(self) -> Synchronous:
        """The durability of the outbox. SettingsError on an unknown word."""
        return parse_synchronous(self.synchronous, env="FARTHING_ROUTER_SYNCHRONOUS")
