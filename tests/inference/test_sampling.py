from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.request import Sampling
from farthing.inference.core.sampling import Sampler, keep_likely, likeliest, log_softmax
from farthing.kit.errors import Internal

LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, 1.5], np.float32)
logits_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, np.float32)
)


def draw_counts(rules: Sampling, count: int, seed: int) -> Any:
    sampler = Sampler(rules, seed)
    drawn = [sampler.draw(LOGITS.copy(), None) for _ in range(count)]
    return np.bincount(drawn, minlength=len(LOGITS))


def chi_square(observed: Any, probabilities: Any) -> float:
    expected = probabilities * observed.sum()
    return float((((observed - expected) ** 2) / expected).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_draws_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    observed = draw_counts(Sampling(temperature=temperature), 20_000, seed=11)
    probabilities = np.exp(log_softmax(LOGITS / np.float32(temperature)))
    # 99.9 % point of chi-square with 7 degrees of freedom.
    assert chi_square(observed, probabilities) < 24.32


def test_draws_after_top_k_follow_the_softmax_of_what_is_left() -> None:
    observed = draw_counts(Sampling(temperature=1.0, top_k=3), 20_000, seed=12)
    kept = [0, 1, 7]
    probabilities = np.exp(log_softmax(LOGITS[kept]))
    assert set(np.flatnonzero(observed)) == set(kept)
    # 99.9 % point with 2 degrees of freedom.
    assert chi_square(observed[kept], probabilities) < 13.82


@given(logits_lists)
def test_temperature_zero_takes_the_likeliest(logits: Any) -> None:
    assert Sampler(Sampling(), 0).draw(logits.copy(), None) == int(np.argmax(logits))


@given(logits_lists, st.integers(), st.floats(0.05, 2), st.floats(0.01, 1), st.floats(0, 1))
def test_equal_seeds_draw_equal_tokens(
    logits: Any, seed: int, temperature: float, top_p: float, min_p: float
) -> None:
    rules = Sampling(temperature=temperature, top_p=top_p, min_p=min_p)
    first, second = Sampler(rules, seed), Sampler(rules, seed)
    for _ in range(5):
        assert first.draw(logits.copy(), None) == second.draw(logits.copy(), None)


@given(logits_lists, st.floats(0.05, 2), st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_it(
    logits: Any, temperature: float, top_p: float
) -> None:
    kept, _ = keep_likely(logits, Sampling(temperature=temperature, top_p=top_p))
    scaled = logits.astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    mass = probabilities[kept]
    assert mass.sum() >= top_p - 1e-9 or len(kept) == len(logits)
    assert mass[:-1].sum() < top_p + 1e-9


@given(logits_lists, st.integers(1, 70))
def test_top_k_keeps_exactly_k(logits: Any, top_k: int) -> None:
    kept, _ = keep_likely(logits, Sampling(temperature=1.0, top_k=top_k))
    assert len(kept) == min(top_k, len(logits))
    assert sorted(logits[kept]) == sorted(sorted(logits)[-top_k:])


@given(logits_lists, st.floats(0.0, 1.0))
def test_min_p_keeps_tokens_with_that_share_of_the_likeliest(logits: Any, min_p: float) -> None:
    _, weights = keep_likely(logits, Sampling(temperature=1.0, min_p=min_p))
    assert len(weights) >= 1
    assert weights.min() >= min_p


def test_penalties_count_earlier_uses() -> None:
    sampler = Sampler(Sampling(frequency_penalty=0.4, presence_penalty=0.3), 0)
    # 2.0 falls by 0.7 to 1.3 < 1.5; then 1.5 falls to 0.8 < 1.3; and so on.
    assert [sampler.draw(LOGITS.copy(), None) for _ in range(4)] == [0, 7, 0, 1]


@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_no_possible_token_is_an_error_and_not_a_guess(value: float) -> None:
    with pytest.raises(Internal):
        Sampler(Sampling(), 0).draw(np.full(4, value, np.float32), None)


@given(logits_lists, st.integers(0, 70))
def test_likeliest_is_in_order_with_ties_to_the_lower_token(logits: Any, count: int) -> None:
    probabilities = log_softmax(logits)
    expected = sorted(range(len(logits)), key=lambda one: (-probabilities[one], one))[:count]
    assert likeliest(probabilities, count) == expected
