"""What a step takes is learned from steps, and shared out to the microsecond."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.cost_model import CostModel, StepSize, Weights, split_us

TRUE = Weights(step_us=3_000, prefill_us=150, decode_us=600, kv_us=0.4)


def sizes(seed: int, count: int) -> list[StepSize]:
    drawn = random.Random(seed)
    return [
        StepSize(
            drawn.choice([0, 0, 32, 200]), drawn.randrange(1, 16), drawn.randrange(0, 20_000)
        )
        for _ in range(count)
    ]


def test_the_fit_finds_what_steps_take_despite_noise() -> None:
    model, drawn = CostModel(), random.Random(3)
    for size in sizes(1, 500):
        model.add(size, TRUE.predict_us(size) * drawn.uniform(0.9, 1.15))
    for size in sizes(2, 100):
        expected = TRUE.predict_us(size)
        assert model.weights.predict_us(size) == pytest.approx(expected, rel=0.12)


def test_the_fit_follows_a_device_that_has_become_slower() -> None:
    model = CostModel()
    for size in sizes(1, 500):
        model.add(size, TRUE.predict_us(size))
    for size in sizes(2, 600):
        model.add(size, 2 * TRUE.predict_us(size))
    size = StepSize(0, 8, 4_000)
    assert model.weights.predict_us(size) == pytest.approx(2 * TRUE.predict_us(size), rel=0.15)


def test_one_disturbed_step_changes_little() -> None:
    model = CostModel()
    for size in sizes(1, 300):
        model.add(size, TRUE.predict_us(size))
    before = model.weights.predict_us(StepSize(0, 8, 4_000))
    model.add(StepSize(0, 8, 4_000), 60e6)
    assert model.weights.predict_us(StepSize(0, 8, 4_000)) < 2 * before


def test_steps_of_one_size_for_days_do_not_upset_it() -> None:
    model = CostModel()
    for size in sizes(1, 100):
        model.add(size, TRUE.predict_us(size))
    same = StepSize(0, 4, 1_000)
    for _ in range(20_000):
        model.add(same, TRUE.predict_us(same))
    assert model.weights.predict_us(same) == pytest.approx(TRUE.predict_us(same), rel=0.05)
    other = StepSize(100, 2, 500)
    assert 0 <= model.weights.predict_us(other) < 20 * TRUE.predict_us(other)


@pytest.mark.parametrize("seed", range(6))
def test_a_noisy_machine_never_throws_the_fit_far_from_what_is_true(seed: int) -> None:
    true = Weights(step_us=300, prefill_us=8, decode_us=30, kv_us=0.02)
    model, drawn = CostModel(), random.Random(seed)
    probes = (StepSize(240, 0, 0), StepSize(240, 0, 40_000), StepSize(0, 1, 500))
    for number in range(8_000):
        size = (
            StepSize(0, 8, drawn.randint(600, 1_200)),
            StepSize(drawn.choice([0, 16, 240]), drawn.randint(0, 8), drawn.randint(0, 20_000)),
            StepSize(0, 1, drawn.randint(10, 200)),
        )[number // 400 % 3]
        held_up_us = drawn.choice([4_000, 1_000_000]) if drawn.random() < 0.02 else 0
        model.add(size, true.predict_us(size) * drawn.lognormvariate(0, 0.4) + held_up_us)
        if number > 200:
            for probe in probes:
                assert model.weights.predict_us(probe) < 20 * true.predict_us(probe)


def test_nothing_is_predicted_before_anything_was_seen() -> None:
    assert CostModel().weights == Weights()


weights = st.floats(0, 1e9, allow_nan=False)


@given(st.integers(0, 10**10), st.lists(weights, min_size=1, max_size=40))
def test_shares_add_up_to_the_step_and_follow_the_weights(
    total_us: int, given_weights: list[float]
) -> None:
    shares = split_us(total_us, given_weights)
    assert sum(shares) == total_us
    assert min(shares) >= 0
    whole = sum(given_weights)
    for share, weight in zip(shares, given_weights, strict=True):
        fair = total_us * weight / whole if whole else total_us / len(shares)
        assert abs(share - fair) <= 1 + total_us * 1e-6


def test_nobody_takes_part_in_no_step() -> None:
    assert split_us(0, []) == []
