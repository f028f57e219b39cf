"""What a soak must show, as rules over what was read: each broken one is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MOST_DRIFT_RATIO = 0.02
MOST_UNBILLED_RATIO = 0.01
WINDOW_COUNT = 10
_SHORTEST_WINDOW_S = 30.0
_FEWEST_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory of one process, so many seconds after the load began."""

    at_s: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Counters:
    """What a service tells of its engine: sums since the start, and how full it is now."""

    busy_us: int
    compute_us: int
    step_count: int
    lost_step_count: int
    restart_count: int
    running_count: int
    queued_count: int
    kv_token_count: int
    cached_token_count: int


def drift_ratio(samples: Sequence[Sample], *, warm_s: float) -> float:
    """How far memory strayed from where it was when warm: the furthest window's median against the first one's.

    Ten windows divide the time behind `warm_s`, fewer if they would be shorter than half a minute: paused requests'
    saved state comes and goes, and a long window's median forgives that and no growth. Below 0 it shrank.
    """
    warm = [sample for sample in samples if sample.at_s >= warm_s]
    if len(warm) < _FEWEST_SAMPLES:
        raise ValueError(f"{len(warm)} samples after warm-up are too few; soak for longer")
    first_s, span_s = warm[0].at_s, warm[-1].at_s - warm[0].at_s
    count = min(WINDOW_COUNT, max(2, int(span_s / _SHORTEST_WINDOW_S)))
    windows: list[list[int]] = [[] for _ in range(count)]
    for sample in warm:
        place = int((sample.at_s - first_s) / span_s * count)
        windows[min(place, count - 1)].append(sample.rss_bytes)
    medians = [median(window) for window in windows if window]
    ratios = [value / medians[0] - 1 for value in medians]
    return max(ratios, key=abs)


def unbilled_ratio(counters: Counters, embed_us: int) -> float:
    """The engine's busy time that no request was charged with, as a share of it; below 0 if more was charged."""
    if not counters.busy_us:
        return 0.0
    return 1 - (counters.compute_us + embed_us) / counters.busy_us


def find_memory_faults(process: str, drift: float) -> list[str]:
    """Memory must stay where it was when warm."""
    if abs(drift) <= MOST_DRIFT_RATIO:
        return []
    verb = "grew" if drift > 0 else "shrank"
    return [
        f"memory of the {process} {verb} by {abs(drift):.1%} after warm-up; {MOST_DRIFT_RATIO:.0%} is the most"
    ]


def find_engine_faults(counters: Counters, embed_us: int) -> list[str]:
    """An engine without callers runs nothing, holds nothing for anybody, and was paid for all that it did."""
    faults = []
    for count, what in (
        (counters.running_count, "requests still run"),
        (counters.queued_count, "requests still wait"),
        (counters.kv_token_count, "tokens are still held for requests"),
    ):
        if count:
            faults.append(f"{count} {what} though every caller has gone")
    for count, what in (
        (counters.lost_step_count, "steps were lost"),
        (counters.restart_count, "times the engine was lost and started again"),
    ):
        if count:
            faults.append(f"{count} {what}; see the service's log")
    unbilled = unbilled_ratio(counters, embed_us)
    if abs(unbilled) > MOST_UNBILLED_RATIO:
        faults.append(
            f"the engine was busy for {counters.busy_us / 1e6:.2f} s and its requests were charged with"
            f" {(counters.compute_us + embed_us) / 1e6:.2f} s: {abs(unbilled):.1%} apart,"
            f" {MOST_UNBILLED_RATIO:.0%} is the most"
        )
    return faults
