from __future__ import annotations

from dataclasses import replace

import pytest
from tests.soak.verdict import (
    Counters,
    Sample,
    drift_ratio,
    find_engine_faults,
    find_memory_faults,
)

SOUND = Counters(
    busy_us=1_000_000,
    compute_us=996_000,
    step_count=100,
    lost_step_count=0,
    restart_count=0,
    running_count=0,
    queued_count=0,
    kv_token_count=0,
    cached_token_count=640,
)


def samples_of(*rss_bytes: int) -> list[Sample]:
    return [Sample(10.0 * place, value) for place, value in enumerate(rss_bytes)]


def test_a_sound_engine_has_no_faults() -> None:
    assert find_engine_faults(SOUND, embed_us=0) == []


def test_growth_before_warm_up_does_not_count() -> None:
    samples = samples_of(*range(100, 200, 10), *[200] * 40)
    assert drift_ratio(samples, warm_s=100) == 0


def test_slow_growth_after_warm_up_is_a_fault_with_its_size() -> None:
    samples = samples_of(*range(1_000, 1_050))
    drift = drift_ratio(samples, warm_s=0)
    assert drift == pytest.approx(0.045, abs=0.002)
    [fault] = find_memory_faults("edge engine", drift)
    assert fault.startswith("memory of the edge engine grew by 4.5%")


def test_a_moment_of_more_is_no_growth() -> None:
    samples = samples_of(*[1_000] * 30, 2_000, *[1_000] * 30)
    assert drift_ratio(samples, warm_s=0) == 0


def test_memory_that_shrinks_is_told_as_that() -> None:
    drift = drift_ratio(samples_of(*range(1_100, 1_000, -1)), warm_s=0)
    [fault] = find_memory_faults("service", drift)
    assert "shrank" in fault


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ValueError, match="too few"):
        drift_ratio(samples_of(1, 2, 3), warm_s=0)


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (replace(SOUND, running_count=1), "1 requests still run"),
        (replace(SOUND, queued_count=2), "2 requests still wait"),
        (replace(SOUND, kv_token_count=3), "3 tokens are still held"),
        (replace(SOUND, lost_step_count=1), "1 steps were lost"),
        (replace(SOUND, restart_count=1), "1 times the engine was lost"),
        (replace(SOUND, compute_us=980_000), "2.0% apart"),
        (replace(SOUND, compute_us=1_020_000), "2.0% apart"),
    ],
)
def test_whatever_is_left_over_is_a_fault(left: Counters, said: str) -> None:
    [fault] = find_engine_faults(left, embed_us=0)
    assert said in fault


def test_vectors_count_as_charged() -> None:
    assert find_engine_faults(replace(SOUND, compute_us=600_000), embed_us=400_000) == []
