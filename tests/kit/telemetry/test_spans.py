"""Spans on the hot path: what is kept, what is dropped, and what travels in a traceparent."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.kit.telemetry.attributes import Description, SharedAttributes
from farthing.kit.telemetry.spans import NullRecorder, SpanRecorder, TraceContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_traceparent_of_the_specification_is_read() -> None:
    context = TraceContext.from_traceparent(f"00-{TRACE}-{SPAN}-01")
    assert context == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-extra",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-zz",
        f"00-{TRACE[:-1]}٠-{SPAN}-01",
    ],
)
def test_an_invalid_traceparent_starts_no_context(header: str | None) -> None:
    assert TraceContext.from_traceparent(header) is None


def test_a_later_version_may_carry_more_fields() -> None:
    context = TraceContext.from_traceparent(f"01-{TRACE}-{SPAN}-03-more")
    assert context is not None
    assert context.sampled


@given(st.text())
def test_no_header_text_raises(header: str) -> None:
    TraceContext.from_traceparent(header)


@given(
    st.integers(1, 2**128 - 1).map(lambda value: f"{value:032x}"),
    st.integers(1, 2**64 - 1).map(lambda value: f"{value:016x}"),
    st.booleans(),
)
def test_a_context_survives_the_wire(trace_id: str, span_id: str, sampled: bool) -> None:
    context = TraceContext(trace_id, span_id, sampled)
    assert TraceContext.from_traceparent(context.traceparent()) == context


def test_a_span_carries_its_parent_its_times_and_what_was_set() -> None:
    instants = iter(range(100, 200, 10))
    recorder = SpanRecorder(now_ns=lambda: next(instants))
    parent = TraceContext(TRACE, SPAN, True)
    span = recorder.start("work", "server", parent, {"a": 1})
    span.set("b", "two")
    span.event("half", {"c": True})
    span.end("error", "broke")
    span.end("ok")  # a second end is not a second span
    (record,) = recorder.drain(10)
    assert record.context.trace_id == TRACE
    assert record.context.span_id != SPAN
    assert record.parent_span_id == SPAN
    assert (record.start_ns, record.end_ns) == (100, 120)
    assert record.attributes == {"a": 1, "b": "two"}
    assert [(event.name, event.time_ns) for event in record.events] == [("half", 110)]
    assert (record.status, record.message) == ("error", "broke")


def test_an_unsampled_parent_is_respected_and_its_flag_travels_on() -> None:
    recorder = SpanRecorder(sample_ratio=1.0)
    span = recorder.start("work", "server", TraceContext(TRACE, SPAN, False))
    assert not span.recording
    assert span.context.traceparent().endswith("-00")
    span.end()
    assert recorder.drain(10) == []


@pytest.mark.parametrize(
    ("ratio", "least", "most"), [(0.0, 0, 0), (0.5, 350, 650), (1.0, 1000, 1000)]
)
def test_new_traces_are_sampled_by_the_ratio(ratio: float, least: int, most: int) -> None:
    recorder = SpanRecorder(sample_ratio=ratio)
    for _ in range(1000):
        recorder.start("work").end()
    assert least <= recorder.recorded_count <= most


@pytest.mark.parametrize("capacity", [3, 2048, 2500])
def test_a_full_ring_gives_up_the_oldest_and_counts_them(capacity: int) -> None:
    recorder = SpanRecorder(capacity_count=capacity)
    for number in range(capacity + 2):
        recorder.start(str(number)).end()
    drained = [record.name for record in recorder.drain(10_000)]
    assert drained == [str(number) for number in range(2, capacity + 2)]
    assert (recorder.recorded_count, recorder.dropped_count) == (capacity + 2, 2)


def test_what_was_set_on_a_span_stands_before_what_it_shares() -> None:
    recorder = SpanRecorder()
    shared = SharedAttributes({"a": 1, "b": 1})
    span = recorder.start("work", attributes=Description((shared,), {"b": 2}))
    span.update(Description((SharedAttributes({"c": 1, "d": 1}),), {"d": 2}))
    span.set("c", 3)
    span.end()
    (record,) = recorder.drain(10)
    assert record.attributes == {"a": 1, "b": 2, "c": 3, "d": 2}
    assert shared.values == {"a": 1, "b": 1}


def test_a_function_is_asked_once_where_the_span_is_drained() -> None:
    recorder = SpanRecorder()
    asked: list[str] = []

    def tell() -> Description:
        asked.append("cost")
        return Description((SharedAttributes({"a": 1, "b": 1}),), {"c": 1})

    span = recorder.start("work", attributes={"c": 0})
    span.update(tell)
    span.update({"d": 1})
    span.set("b", 2)
    span.end()
    assert asked == []
    (record,) = recorder.drain(10)
    assert record.attributes == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert asked == ["cost"]


def test_a_span_that_cannot_be_told_is_counted_and_loses_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = SpanRecorder()

    def fail() -> Description:
        raise ValueError("nothing to tell")

    for name in ("first", "odd", "second"):
        span = recorder.start(name)
        if name == "odd":
            span.update(fail)
        span.end("ok")
    assert [record.name for record in recorder.drain(10)] == ["first", "second"]
    assert (recorder.recorded_count, recorder.dropped_count) == (3, 1)
    assert "'odd' could not be described" in caplog.text


def test_a_span_that_is_not_recorded_notes_nothing_and_asks_nobody() -> None:
    recorder = SpanRecorder(sample_ratio=0.0)
    span = recorder.start("work", attributes={"a": 1})
    span.update(lambda: pytest.fail("asked"))
    span.set("b", 1)
    span.event("half")
    span.end("error", "broke")
    assert (recorder.recorded_count, recorder.waiting_count) == (0, 0)


def test_the_exporter_is_woken_when_a_full_batch_waits() -> None:
    recorder = SpanRecorder()
    woken = threading.Event()
    recorder.on_full_batch(woken.set)
    for _ in range(2048):
        recorder.start("work").end()
    assert not woken.is_set()
    recorder.start("work").end()
    assert woken.is_set()


def test_with_tracing_off_contexts_still_travel() -> None:
    recorder = NullRecorder()
    root = recorder.start("root")
    child = recorder.start("child", "client", root.context, {"a": 1})
    assert child.context.trace_id == root.context.trace_id
    sampled = recorder.start("work", "server", TraceContext(TRACE, SPAN, True))
    assert sampled.context.sampled
    sampled.end()
    assert recorder.drain(10) == []
