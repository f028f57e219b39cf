"""Spans on the hot path: a few microseconds, one tuple each in a bounded ring that never blocks anyone."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from farthing.kit.ids import new_span_id, new_trace_id
from farthing.kit.telemetry.attributes import (
    Attributes,
    AttributeValue,
    Deferred,
    Description,
    SharedAttributes,
)

_LOG = logging.getLogger("farthing.telemetry")

SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
SpanStatus = Literal["unset", "ok", "error"]

DEFAULT_CAPACITY = 16_384  # spans; at about 1 KiB each the ring stays below 16 MiB
_WAKE_AT = 2048  # spans waiting that wake the exporter before its period is over
_new_tuple = tuple.__new__
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
    """A finished span, as the exporter takes it."""

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


# What was said of a span, in order.
_Note = tuple[str, AttributeValue] | Attributes | Description | Deferred | SpanEvent


class Span:
    """A running span. `end` hands it over; later calls change nothing.

    What is told of it is only noted, and put together where spans are drained. In a request each of these lines runs
    once, out of cold caches, which costs several times what it costs for many spans in a row.
    """

    __slots__ = (
        "_end_ns", "_kind", "_message", "_notes", "_parent_span_id", "_recorder", "_start_ns",
        "_status", "context", "name",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        parent_span_id: str,
        attributes: Attributes | Description | None,
        recorder: SpanRecorder | None,
    ) -> None:
        self.name = name
        self.context = context
        self._recorder = recorder
        if recorder is not None:  # nothing reads the rest of a span that is not recorded
            self._kind = kind
            self._parent_span_id = parent_span_id
            self._notes: list[_Note] = [] if attributes is None else [attributes]
            self._start_ns = recorder.now_ns()

    @property
    def recording(self) -> bool:
        """False when nobody will see the span: skip work that only fills attributes."""
        return self._recorder is not None

    def set(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; names come from `names`."""
        if self._recorder is not None:
            self._notes.append((key, value))

    def update(self, attributes: Attributes | Description | Deferred) -> None:
        """Set several attributes, which must not change afterwards.

        A function is called once where spans are drained, mostly in another thread; it holds on to its arguments until
        then, so let them be few and small.
        """
        if self._recorder is not None:
            self._notes.append(attributes)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Note that something happened now."""
        recorder = self._recorder
        if recorder is not None:
            self._notes.append(SpanEvent(name, recorder.now_ns(), attributes or {}))

    def end(self, status: SpanStatus = "unset", message: str = "") -> None:
        """Finish the span. `message` is for errors and holds no prompt text."""
        recorder = self._recorder
        if recorder is not None:
            self._recorder = None
            self._status = status
            self._message = message
            self._end_ns = recorder.now_ns()
            recorder.keep(self)

    def finished(self) -> SpanRecord:
        """The record of a span that has ended: later notes stand before earlier ones, own attributes before shared."""
        own: dict[str, AttributeValue] = {}
        shared: tuple[SharedAttributes, ...] = ()
        events: tuple[SpanEvent, ...] = ()
        for note in self._notes:
            if type(note) is tuple:  # a pair: other tuples have classes of their own
                own[note[0]] = note[1]  # type: ignore[index, assignment]
                continue
            told: Any = note() if callable(note) else note
            if type(told) is Description:
                shared = shared + told.shared if shared else told.shared
                own.update(told.own)
            elif type(told) is SpanEvent:
                events += (told,)
            else:
                own.update(told)
        # What the class does with its arguments by name, without a call in between.
        return _new_tuple(
            SpanRecord,
            (
                self.name, self._kind, self.context, self._parent_span_id, self._start_ns,
                self._end_ns, own, events, self._status, self._message, shared,
            ),
        )  # fmt: skip


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
        self._ring: deque[Span] = deque(maxlen=capacity_count)
        self._capacity_count = capacity_count
        self._crowded_count = min(_WAKE_AT, capacity_count)
        self._sample_below = round(min(max(sample_ratio, 0.0), 1.0) * (1 << _SAMPLE_BITS))
        self.now_ns = now_ns
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
        recorder = self if context[2] else None
        return Span(name, kind, context, parent_span_id, attributes, recorder)

    def on_full_batch(self, wake: Callable[[], None] | None) -> None:
        """Call `wake` whenever a full batch waits; it must not block."""
        self._wake = wake

    def drain(self, limit_count: int) -> list[SpanRecord]:
        """Take up to `limit_count` spans, oldest first."""
        records: list[SpanRecord] = []
        while len(records) < limit_count and (record := self.take()) is not None:
            records.append(record)
        return records

    def take(self) -> SpanRecord | None:
        """The oldest span, taken; None when there is none."""
        while True:
            try:
                span = self._ring.popleft()
            except IndexError:
                return None  # empty: asking first would race with the recording threads
            try:
                return span.finished()
            except Exception:
                _LOG.exception("span %r could not be described", span.name)
                self.dropped_count += 1

    def keep(self, span: Span) -> None:
        """Take a span that has ended; spans call it."""
        ring = self._ring
        waiting_count = len(ring)
        if waiting_count >= self._crowded_count:
            if waiting_count == self._capacity_count:
                self.dropped_count += 1
            if waiting_count % _WAKE_AT == 0 and self._wake is not None:
                self._wake()
        ring.append(span)
        self.recorded_count += 1

    def count_dropped(self, span_count: int) -> None:
        """Add spans that the exporter had to give up."""
        self.dropped_count += span_count

    @property
    def waiting_count(self) -> int:
        """Spans in the ring."""
        return len(self._ring)


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
        return Span(name, kind, context, "", None, None)
