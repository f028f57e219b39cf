"""Every knob of the ledger service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.kit.settings import ServiceSettings, setting


@dataclass(frozen=True, slots=True)
class LedgerSettings(ServiceSettings):
    """Settings of one ledger process: gRPC, OTLP intake and console."""

    port: int = setting(50054, env="FARTHING_PORT", doc="gRPC port.")
    otlp_grpc_port: int = setting(
        4317, env="FARTHING_OTLP_GRPC_PORT", doc="OTLP/gRPC port; -1 turns it off."
    )
    otlp_http_port: int = setting(
        4318, env="FARTHING_OTLP_HTTP_PORT", doc="OTLP/HTTP port; -1 turns it off."
    )
    console_host: str = setting(
        "",
        env="FARTHING_CONSOLE_HOST",
        doc="Address of the web console; empty for FARTHING_HOST.",
    )
    console_port: int = setting(
        8090, env="FARTHING_CONSOLE_PORT", doc="Port of the web console; -1 turns it off."
    )
    console_session_s: int = setting(
        43_200,
        env="FARTHING_CONSOLE_SESSION_S",
        doc="Life of a console login.",
        unit="s",
    )
    console_secure_cookie: bool = setting(
        False,
        env="FARTHING_CONSOLE_SECURE_COOKIE",
        doc="Mark the console's cookie Secure: set it when a proxy serves the console over HTTPS.",
    )
    span_retention_days: int = setting(
        30,
        env="FARTHING_SPAN_RETENTION_DAYS",
        doc="Spans older than this are deleted; charges are kept for ever.",
        unit="days",
    )
    span_queue_count: int = setting(
        20_000,
        env="FARTHING_SPAN_QUEUE_COUNT",
        doc="Spans waiting to be stored; more are refused and the sender tries again.",
    )
