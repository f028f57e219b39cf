"""How long a step takes, fitted as it goes; and each request's share of it, to the microsecond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_FORGET = 0.995  # the last 200 steps or so count: throttling and neighbours come and go
_FIRST_VARIANCE = 100.0
# Forgetting stops where so much is uncertain. What no step has shown for long would else be forgotten without
# end, and the first step to show it again, noisy as all are, would throw its weight to thousands of times what is true.
_MOST_VARIANCE = 0.1
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
    """Recursive least squares with forgetting over (1, prefill, decode, kv); weights below 0 count as 0.

    Plain numbers: for four unknowns arrays would take five times as long, once in every step.
    """

    def __init__(self) -> None:
        self._theta = [0.0] * 4
        self._variance = [
            [_FIRST_VARIANCE * (row == column) for column in range(4)] for row in range(4)
        ]
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
        a, b, c, d = (
            1.0,
            _TOKEN_UNIT * size.prefill_count,
            _TOKEN_UNIT * size.decode_count,
            _KV_UNIT * size.kv_count,
        )
        theta = self._theta
        spread = [row[0] * a + row[1] * b + row[2] * c + row[3] * d for row in self._variance]
        forget = (
            _FORGET if sum(self._variance[i][i] for i in range(4)) < _MOST_VARIANCE else 1.0
        )
        whole = forget + spread[0] * a + spread[1] * b + spread[2] * c + spread[3] * d
        gain = [one / whole for one in spread]
        error = duration_us - (theta[0] * a + theta[1] * b + theta[2] * c + theta[3] * d)
        self._theta = theta = [
            old + share * error for old, share in zip(theta, gain, strict=True)
        ]
        self._variance = [
            [(old - share * other) / forget for old, other in zip(row, spread, strict=True)]
            for row, share in zip(self._variance, gain, strict=True)
        ]
        step, prefill, decode, kv = theta
        self._weights = Weights(
            max(step, 0.0),
            max(prefill * _TOKEN_UNIT, 0.0),
            max(decode * _TOKEN_UNIT, 0.0),
            max(kv * _KV_UNIT, 0.0),
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
