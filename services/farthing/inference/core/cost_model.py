"""How long a step takes, fitted as it goes; and each request's share of it, to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_FORGET = 0.995  # the last 200 steps or so count: throttling and neighbours come and go
# How firmly a weight stays where it was, in squares of the units below: what steps have shown for long overrules
# it at once, what they show again after long only by and by, for a single step is noisy.
_FIRMNESS = 5.0
_SWEEP_COUNT = 3
_PART = 1 << 32
# Units of about one, so that the fit is well conditioned: tokens in tens, key-value tokens in thousands.
_TOKEN_UNIT = 0.1
_KV_UNIT = 0.001


class StepSize(NamedTuple):
    """What a step computes: prompt tokens, generated tokens, and tokens of key-value state read for them.

    A token reads all that come before its sequence's part of the step: `kv_count` is the sum of those.
    """

    prefill_count: int
    decode_count: int
    kv_count: int

    def plus(self, other: StepSize) -> StepSize:
        """Both together."""
        return StepSize(
            self.prefill_count + other.prefill_count,
            self.decode_count + other.decode_count,
            self.kv_count + other.kv_count,
        )


@dataclass(frozen=True, slots=True)
class Weights:
    """Microseconds of device time: a step, a prompt token, a generated token, a key-value token read; 0 is unknown."""

    step_us: float = 0.0
    prefill_us: float = 0.0
    decode_us: float = 0.0
    kv_us: float = 0.0

    def predict_us(self, size: StepSize) -> float:
        """How long a step of that size takes."""
        return self.step_us + self.weigh(size)

    def weigh(self, size: StepSize) -> float:
        """A request's weight within a step: what its tokens take, without the step as such."""
        return (
            self.prefill_us * size.prefill_count
            + self.decode_us * size.decode_count
            + self.kv_us * size.kv_count
        )


class CostModel:
    """Least squares with forgetting over (1, prefill, decode, kv), no weight below 0, by coordinate descent.

    Each descent makes the sum of squares smaller, so that the fit cannot run away, as recursive least squares did when
    noisy steps of one kind came after many of another. Plain numbers: for four unknowns arrays would take longer.
    """

    def __init__(self) -> None:
        self._theta = [0.0] * 4
        self._products = [[0.0] * 4 for _ in range(4)]
        self._targets = [0.0] * 4
        self._weights = Weights()
        self.sample_count = 0

    @property
    def weights(self) -> Weights:
        """The fit as it stands."""
        return self._weights

    def add(self, size: StepSize, duration_us: float) -> None:
        """Learn from a step. One that took ten times what was expected was disturbed, and tells little: it is cut."""
        expected = self._weights.predict_us(size)
        if self.sample_count > 20 and expected > 0:
            duration_us = min(duration_us, 10.0 * expected)
        sizes = (
            1.0,
            _TOKEN_UNIT * size.prefill_count,
            _TOKEN_UNIT * size.decode_count,
            _KV_UNIT * size.kv_count,
        )
        a, b, c, d = sizes
        targets, products, theta = self._targets, self._products, self._theta
        for place, one in enumerate(sizes):
            row = products[place]
            products[place] = [
                _FORGET * row[0] + one * a,
                _FORGET * row[1] + one * b,
                _FORGET * row[2] + one * c,
                _FORGET * row[3] + one * d,
            ]
            targets[place] = _FORGET * targets[place] + one * duration_us
        before = tuple(theta)
        for _ in range(_SWEEP_COUNT):
            for place, (e, f, g, h) in enumerate(products):
                mine = (e, f, g, h)[place]
                fitted = e * theta[0] + f * theta[1] + g * theta[2] + h * theta[3]
                left = targets[place] - fitted + mine * theta[place] + _FIRMNESS * before[place]
                theta[place] = max(0.0, left / (mine + _FIRMNESS))
        step, prefill, decode, kv = theta
        self._weights = Weights(
            step, prefill * _TOKEN_UNIT, decode * _TOKEN_UNIT, kv * _KV_UNIT
        )
        self.sample_count += 1


def split_us(total_us: int, weights: Sequence[float]) -> list[int]:
    """`total_us` in whole microseconds by weight, by largest remainders: the sum is exactly the total.

    Equal shares when no weight is above 0. Ties go to the earlier one.
    """
    if not weights:
        return []
    largest = max(weights)
    # In whole numbers, for sums of floats are not exact.
    parts = [round(weight / largest * _PART) for weight in weights] if largest > 0 else []
    if not any(parts):
        parts = [1] * len(weights)
    whole = sum(parts)
    shares = [total_us * part // whole for part in parts]
    rests = [-(total_us * part % whole) for part in parts]
    order = sorted(range(len(parts)), key=lambda place: (rests[place], place))
    for place in order[: total_us - sum(shares)]:
        shares[place] += 1
    return shares
