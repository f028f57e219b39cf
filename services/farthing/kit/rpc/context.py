"""What a handler may know of the call it serves: trace, API key and deadline. Set by the server, one value per call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from farthing.kit.errors import Unauthenticated
from farthing.kit.telemetry import names
from farthing.kit.telemetry.attributes import Description, SharedAttributes
from farthing.kit.telemetry.spans import Span, SpanRecorder, TraceContext


@dataclass(slots=True)
class CallContext:
    """One call. `deadline` is on the event loop's monotonic clock, None without one."""

    method: str
    trace: TraceContext
    span: Span
    api_key: str | None
    deadline: float | None
    recorder: SpanRecorder
    _key_digest: bytes | None = None

    def require_key_digest(self) -> bytes:
        """SHA-256 of the caller's API key, 32 bytes. Unauthenticated if there is none."""
        if not self.api_key:
            raise Unauthenticated(
                "send metadata 'authorization: Bearer <API key>'; `farthing keys create` makes one",
                reason="KEY_MISSING",
            )
        if self._key_digest is None:
            self._key_digest = hashlib.sha256(self.api_key.encode()).digest()
        return self._key_digest

    def item(self, method: str, traceparent: str, deadline: float | None) -> CallContext:
        """A request of its own within this call, in a trace of its own; its task enters it, and ends its span."""
        span = self.recorder.start(
            method,
            names.KIND_SERVER,
            TraceContext.from_traceparent(traceparent),
            describe_method(method),
        )
        return CallContext(method, span.context, span, self.api_key, deadline, self.recorder)

    def start_items(self, traceparents: Iterable[str]) -> list[Span]:
        """Spans of this call in the traces of the requests that it serves together; the handler ends them."""
        parents = map(TraceContext.from_traceparent, traceparents)
        attributes = describe_method(self.method)
        return [
            self.recorder.start(self.method, names.KIND_SERVER, parent, attributes)
            for parent in parents
            if parent is not None
        ]


@cache  # there are as many as methods are served
def describe_method(method: str) -> Description:
    """Attributes of the span of a call to `method`, its full name."""
    shared = SharedAttributes({names.RPC_SYSTEM: "grpc", names.RPC_METHOD: method})
    return Description((shared,), {})


_current: ContextVar[CallContext] = ContextVar("farthing_call")


def current() -> CallContext:
    """The call being served in this task. LookupError outside a handler."""
    return _current.get()


def enter(call: CallContext) -> None:
    """Make `call` the current one of this task. Each call has a task of its own, so nothing need be undone."""
    _current.set(call)
