"""Opens channels and prepares calls the same way everywhere."""

from __future__ import annotations

import grpc

from farthing.kit.rpc.status import decode_error
from farthing.kit.rpc.tls import TlsFiles
from farthing.kit.telemetry.spans import TraceContext

__all__ = [
    "MAX_MESSAGE_BYTES",
    "batch_metadata",
    "decode_error",
    "open_blocking_channel",
    "open_channel",
    "outgoing_metadata",
]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

# Retries live in one place, our own clients: the library's transparent ones stay, its policy-driven ones are off.
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name the time that one attempt may take, handshakes included: a far region needs several round trips,
    # a busy peer its turn.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str, *, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """Open a channel to host:port. It connects when first used; the caller closes it."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, tls.channel_credentials(), options=_OPTIONS)


def open_blocking_channel(address: str, *, tls: TlsFiles | None = None) -> grpc.Channel:
    """The same for work in threads, such as moving files, that would only hinder an event loop."""
    if tls is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, tls.channel_credentials(), options=_OPTIONS)


def outgoing_metadata(
    trace: TraceContext | None, api_key: str | None = None
) -> tuple[tuple[str, str], ...]:
    """Metadata of an outgoing call: W3C trace context, and the caller's key where the callee needs it."""
    pairs: tuple[tuple[str, str], ...] = ()
    if trace is not None:
        pairs = (("traceparent", trace.traceparent()),)
    if api_key:
        pairs = (*pairs, ("authorization", f"Bearer {api_key}"))
    return pairs


def batch_metadata(traceparent: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call for several requests, which name their traces item by item; `traceparent` is the first one's.

    Logs get that trace's id, but the call as such has no span: it would be a trace of its own beside the requests'.
    """
    trace = TraceContext.from_traceparent(traceparent)
    return () if trace is None else outgoing_metadata(trace._replace(sampled=False))
