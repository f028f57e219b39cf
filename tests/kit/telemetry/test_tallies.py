"""Counts without locks say what prometheus_client's own say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from farthing.kit.telemetry.tallies import Tally, Timings

BOUNDS_S = (0.001, 0.25, 1, 60)
# Some are a bound itself, which belongs below it.
durations = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(BOUNDS_S) | st.floats(0, 1000)),
    max_size=30,
)


def told(registry: CollectorRegistry) -> set[bytes]:
    """The samples as they are scraped, without when each was made, which ours do not say."""
    lines = generate_latest(registry).splitlines()
    return {line for line in lines if b"_created" not in line}


@given(durations)
def test_timings_fall_between_the_same_bounds(taken: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    timings = Timings("wait_seconds", "Waits.", ("kind",), BOUNDS_S)
    ours.register(timings)
    histogram = Histogram(
        "wait_seconds", "Waits.", ("kind",), buckets=BOUNDS_S, registry=theirs
    )
    for kind, duration_s in taken:
        timings.add((kind,), duration_s)
        histogram.labels(kind).observe(duration_s)
    assert told(ours) == told(theirs)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10**6)), max_size=30))
def test_a_tally_counts_like_a_counter(events: list[tuple[str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = Tally("paid", "Paid.", ("tier",))
    ours.register(tally)
    counter = Counter("paid", "Paid.", ("tier",), registry=theirs)
    for tier, amount in events:
        tally.add((tier,), amount)
        counter.labels(tier).inc(amount)
    assert told(ours) == told(theirs)


def test_a_tally_without_labels_is_told_before_its_first_event_and_one_that_falls_is_a_gauge() -> (
    None
):
    registry = CollectorRegistry()
    registry.register(Tally("failures", "Failures."))
    falling = Tally("open", "Open.", falls=True)
    registry.register(falling)
    falling.add()
    falling.add(amount=-1)
    assert registry.get_sample_value("failures_total") == 0
    assert registry.get_sample_value("open") == 0
    assert b"# TYPE open gauge" in generate_latest(registry)
