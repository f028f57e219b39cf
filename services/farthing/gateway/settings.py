"""Every knob of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.kit.settings import ServiceSettings, setting


@dataclass(frozen=True, slots=True)
class GatewaySettings(ServiceSettings):
    """See ServiceSettings for what every service shares."""

    port: int = setting(8080, env="FARTHING_PORT", doc="HTTP port.")
    router_address: str = setting(
        "",
        env="FARTHING_ROUTER_ADDRESS",
        doc="Router, host:port; empty finds routers by discovery.",
    )
    timeout_ms: int = setting(
        600_000,
        env="FARTHING_GATEWAY_TIMEOUT_MS",
        doc="Longest time that one request may take.",
        unit="ms",
    )
    max_body_bytes: int = setting(
        8 * 1024 * 1024,
        env="FARTHING_GATEWAY_MAX_BODY_BYTES",
        doc="Largest request body.",
        unit="bytes",
    )
