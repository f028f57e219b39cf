"""Ids are unique, sort by time, and trace ids are W3C's."""

from __future__ import annotations

import re
import time

import pytest

from farthing.kit import ids
from farthing.kit.telemetry.spans import TraceContext


def test_an_id_is_its_prefix_and_32_hex_digits() -> None:
    assert re.fullmatch(r"hold_[0-9a-f]{32}", ids.new_id("hold"))


def test_ids_do_not_repeat() -> None:
    assert len({ids.new_id("req") for _ in range(10_000)}) == 10_000


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    start_ms = time.time_ns() // 1_000_000
    # Steps that carry into ever higher digits.
    for offset_ms in (0, 1, 31, 32, 1_023, 1_024, 10**6, 10**9, 10**12):
        monkeypatch.setattr(time, "time_ns", lambda ms=start_ms + offset_ms: ms * 10**6)
        made.append(ids.new_id("charge"))
    assert made == sorted(made)


def test_trace_and_span_ids_make_a_valid_traceparent() -> None:
    context = TraceContext(ids.new_trace_id(), ids.new_span_id(), True)
    assert TraceContext.from_traceparent(context.traceparent()) == context
    assert ids.new_trace_id() != ids.new_trace_id()
    assert ids.new_span_id() != ids.new_span_id()
