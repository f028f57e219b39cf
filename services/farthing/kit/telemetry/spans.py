"""Spans on the hot path: a few microseconds, one tuple each in a bounded ring that never blocks anyone."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from farthing.kit.ids import new_span_id, new_trace_id
from farthing.kit.telemetry.attributes import (
    Attributes,
    AttributeValue,
    Description,
    SharedAttributes,
)

_LOG = logging.getLogger("farthing.telemetry")

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
SpanStatus = Literal["unset", "ok", "error"]

DEFAULT_CAPACITY = 16_384  # spans; at about 1 KiB each the ring stays below 16 MiB
_WAKE_AT = 1024  # spans waiting that wake the exporter before its period is over
_SAMPLE_BITS = 56  # W3C trace context level 2: the random part of a trace id

# Version 00 has exactly four fields; later versions may add fields after a dash.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16


class TraceContext(NamedTuple):
    """A place in a trace: 32 hex digits, 16 hex digits, and whether anyone records it."""

    trace_id: str
    span_id: str
    sampled: bool

    @classmethod
    def from_traceparent(cls, header: str | None) -> TraceContext | None:
        """Read a W3C traceparent header; None when it is missing or invalid (a new trace then starts)."""
        if not header:
            return None
        match = _TRACEPARENT.fullmatch(header.strip())
        if match is None:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))

    def traceparent(self) -> str:
        """Write the W3C traceparent header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self, span_id: str) -> TraceContext:
        """The same trace at another span."""
        return TraceContext(self.trace_id, span_id, self.sampled)


class SpanEvent(NamedTuple):
    """Something that happened at one instant of a span."""

    name: str
    time_ns: int
    attributes: Attributes


class SpanRecord(NamedTuple):
    """A finished span, as the recorder keeps it or has it encoded."""

    name: str
    kind: SpanKind
    context: TraceContext
    parent_span_id: str  # empty for a root
    start_ns: int
    end_ns: int
    own: Attributes
    events: Sequence[SpanEvent]
    status: SpanStatus
    message: str
    shared: tuple[SharedAttributes, ...] = ()

    @property
    def attributes(self) -> Attributes:
        """All attributes, the shared ones first."""
        return Description(self.shared, self.own).values


class Span:
    """A running span. `end` hands it over; later calls change nothing."""

    __slots__ = (
        "_events", "_keep", "_kind", "_now_ns", "_own", "_parent_span_id", "_shared",
        "_start_ns", "context", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        parent_span_id: str,
        attributes: Attributes | Description | None,
        keep: Callable[[SpanRecord], None] | None,
        now_ns: Callable[[], int],
    ) -> None:
        self.name = name
        self.context = context
        self._keep = keep
        if keep is None:
            return  # nothing reads the rest
        self._kind = kind
        self._parent_span_id = parent_span_id
        self._own: dict[str, AttributeValue] = {}
        self._shared: tuple[SharedAttributes, ...] = ()
        self._events: list[SpanEvent] = []
        self._now_ns = now_ns
        self._start_ns = now_ns()
        if attributes is not None:
            self.update(attributes)

    @property
    def recording(self) -> bool:
        """False when nobody will see the span: skip work that only fills attributes."""
        return self._keep is not None

    def set(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; names come from `names`."""
        if self._keep is not None:
            self._own[key] = value

    def update(self, attributes: Attributes | Description) -> None:
        """Set several attributes. One that is set singly stands before one that is shared."""
        if self._keep is None:
            return
        if isinstance(attributes, Description):
            self._shared += attributes.shared
            self._own.update(attributes.own)
        else:
            self._own.update(attributes)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Note that something happened now."""
        if self._keep is not None:
            self._events.append(SpanEvent(name, self._now_ns(), attributes or {}))

    def end(self, status: SpanStatus = "unset", message: str = "") -> None:
        """Finish the span. `message` is for errors and holds no prompt text."""
        keep = self._keep
        if keep is None:
            return
        self._keep = None
        keep(
            SpanRecord(
                self.name,
                self._kind,
                self.context,
                self._parent_span_id,
                self._start_ns,
                self._now_ns(),
                self._own,
                self._events,
                status,
                message,
                self._shared,
            )
        )


class SpanRecorder:
    """Keeps finished spans in a bounded ring until an exporter drains it; the oldest give way when it is full.

    Safe to use from any thread. `sample_ratio` (0..1) decides new traces by their id, so that every process agrees;
    a trace begun elsewhere keeps its own flag.
    """

    def __init__(
        self,
        *,
        sample_ratio: float = 1.0,
        capacity_count: int = DEFAULT_CAPACITY,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._ring: deque[SpanRecord | bytes] = deque(maxlen=capacity_count)
        self._encode: Callable[[SpanRecord], bytes] | None = None
        self._capacity_count = capacity_count
        self._sample_below = round(min(max(sample_ratio, 0.0), 1.0) * (1 << _SAMPLE_BITS))
        self._now_ns = now_ns
        self._wake: Callable[[], None] | None = None
        self.recorded_count = 0
        self.dropped_count = 0

    def start(
        self,
        name: str,
        kind: SpanKind = "internal",
        parent: TraceContext | None = None,
        attributes: Attributes | Description | None = None,
    ) -> Span:
        """Start a span under `parent`, or a new trace when it is None. Names come from `names`."""
        if parent is not None:
            context = TraceContext(parent[0], new_span_id(), parent[2])
            parent_span_id = parent[1]
        else:
            trace_id = new_trace_id()
            sampled = int(trace_id[18:], 16) < self._sample_below
            context = TraceContext(trace_id, new_span_id(), sampled)
            parent_span_id = ""
        keep = self._keep if context[2] else None
        return Span(name, kind, context, parent_span_id, attributes, keep, self._now_ns)

    def on_full_batch(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` whenever a full batch waits; it must not block."""
        self._wake = wake

    def encode_with(self, encode: Callable[[SpanRecord], bytes]) -> None:
        """Keep spans as bytes from now on: `encode` is called as they end, from whichever thread ends them.

        Where spans end they are at hand, and a thread that encodes hundreds at once stalls the others meanwhile.
        """
        self._encode = encode

    def drain(self, limit_count: int) -> list[SpanRecord]:
        """Take up to `limit_count` spans, oldest first. For a recorder without an encoder."""
        spans: list[SpanRecord] = []
        while len(spans) < limit_count and (item := self._take()) is not None:
            assert isinstance(item, SpanRecord)
            spans.append(item)
        return spans

    def drain_encoded(self, limit_count: int, limit_bytes: int) -> list[bytes]:
        """Take spans as the encoder makes them, oldest first, until there are so many or they reach `limit_bytes`."""
        spans: list[bytes] = []
        size = 0
        while len(spans) < limit_count and size < limit_bytes:
            item = self._take()
            if item is None:
                break
            encoded = item if isinstance(item, bytes) else self._encoded(item)
            if encoded is not None:
                spans.append(encoded)
                size += len(encoded)
        return spans

    def count_dropped(self, span_count: int) -> None:
        """Add spans that the exporter had to give up."""
        self.dropped_count += span_count

    @property
    def waiting_count(self) -> int:
        """Spans in the ring."""
        return len(self._ring)

    def _take(self) -> SpanRecord | bytes | None:
        try:
            return self._ring.popleft()
        except IndexError:
            return (
                None  # asking first whether it is empty would race with the recording threads
            )

    def _keep(self, record: SpanRecord) -> None:
        self.recorded_count += 1
        item: SpanRecord | bytes | None = record
        if self._encode is not None:
            item = self._encoded(record)
        if item is None:
            return
        ring = self._ring
        waiting_count = len(ring)
        if waiting_count == self._capacity_count:
            self.dropped_count += 1
        ring.append(item)
        if (
            waiting_count >= _WAKE_AT
            and waiting_count % _WAKE_AT == 0
            and self._wake is not None
        ):
            self._wake()

    def _encoded(self, record: SpanRecord) -> bytes | None:
        """None, logged and counted, where that fails: the work that the span tells of must not fail with it."""
        assert self._encode is not None
        try:
            return self._encode(record)
        except Exception:
            _LOG.exception("span %r could not be encoded", record.name)
            self.dropped_count += 1
            return None


class NullRecorder(SpanRecorder):
    """Tracing is off: contexts still travel, so that logs and charges carry trace ids; nothing is kept."""

    def __init__(self) -> None:
        super().__init__(sample_ratio=0.0, capacity_count=1)

    def start(
        self,
        name: str,
        kind: SpanKind = "internal",
        parent: TraceContext | None = None,
        attributes: Attributes | Description | None = None,
    ) -> Span:
        """See SpanRecorder. `attributes` are ignored."""
        if parent is not None:
            context = TraceContext(parent[0], new_span_id(), parent[2])
        else:
            context = TraceContext(new_trace_id(), new_span_id(), False)
        return Span(name, kind, context, "", None, None, time.time_ns)
