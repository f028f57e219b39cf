"""Draws tokens from logits: penalties, temperature, top-k, top-p, min-p."""

from __future__ import annotations

from math import isfinite
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch_backend import Logits
from farthing.inference.core.request import Sampling
from farthing.kit.errors import Internal

_USUAL_TOP_P_COUNT = 512


class Constraint(Protocol):
    """Limits an answer to a language, token by token. Used by one request, then closed."""

    def mask(self, logits: Logits) -> None:
        """Set the logits of tokens that may not come next to -inf, in place.

        End tokens stay allowed only where the answer is complete.
        """

    def accept(self, token: int) -> None:
        """Move on by a token that `mask` allowed. Never called with an end token."""

    def close(self) -> None:
        """Free what it holds. Idempotent."""


class Sampler:
    """Draws the tokens of one answer. Equal seeds and logits give equal tokens.

    `seed` is any integer; it counts modulo 2**64.
    """

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(seed % 2**64))
        self._use_counts: dict[int, int] = {}
        self._biased = np.fromiter(sampling.logit_bias, np.int64, len(sampling.logit_bias))
        self._biases = np.fromiter(sampling.logit_bias.values(), np.float32)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always drawn, as the model gives it."""
        rules = self._sampling
        changed = rules.frequency_penalty or rules.presence_penalty or rules.logit_bias
        return rules.temperature <= 0 and not changed

    def draw(self, logits: Logits, constraint: Constraint | None) -> int:
        """Chooses a token; changes `logits`. Raises Internal when none may come next."""
        rules = self._sampling
        if rules.frequency_penalty or rules.presence_penalty:
            for token, use_count in self._use_counts.items():
                logits[token] -= rules.frequency_penalty * use_count + rules.presence_penalty
        if len(self._biased):
            logits[self._biased] += self._biases
        if constraint is not None:
            constraint.mask(logits)
        best = int(logits.argmax())
        if not isfinite(logits[best]):
            raise Internal(
                "The model gave no token that may come next.", reason="NO_TOKEN_POSSIBLE"
            )
        token = best if rules.temperature <= 0 else self._draw_random(logits)
        self._use_counts[token] = self._use_counts.get(token, 0) + 1
        return token

    def _draw_random(self, logits: Logits) -> int:
        candidates, weights = keep_likely(logits, self._sampling)
        bounds = np.cumsum(weights)
        place = self._random.random() * bounds[-1]
        index = int(np.searchsorted(bounds, place, side="right"))
        if index == len(candidates):  # rounding reached the upper end
            index = int(np.flatnonzero(weights)[-1])
        return int(candidates[index])


def keep_likely(
    logits: Logits, rules: Sampling
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Tokens that temperature > 0, top-k, top-p and min-p leave, with their weights.

    Weights are shares of the likeliest token's probability. Ties at a border go to the lower
    token, so that the result does not depend on how the sort works.
    """
    weights = np.exp((logits.astype(np.float64) - logits.max()) / rules.temperature)
    if 0 < rules.top_k < len(logits):
        candidates = _best(logits, rules.top_k)
        total = weights[candidates].sum()
    elif rules.top_p < 1:
        # Sorting a large vocabulary takes milliseconds, and few tokens nearly always suffice.
        candidates = _best(logits, _USUAL_TOP_P_COUNT)
        total = weights.sum()
        if weights[candidates].sum() < rules.top_p * total:
            candidates = _best(logits, len(logits))
    else:
        candidates = np.arange(len(logits))
    weights = weights[candidates]
    if rules.top_p < 1:
        keep_count = int(np.searchsorted(np.cumsum(weights) / total, rules.top_p)) + 1
        candidates, weights = candidates[:keep_count], weights[:keep_count]
    if rules.min_p > 0:
        kept = weights >= rules.min_p
        candidates, weights = candidates[kept], weights[kept]
    return candidates, weights


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities that the logits stand for."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    return scores


def likeliest(log_probabilities: NDArray[np.float64], count: int) -> list[int]:
    """The `count` likeliest tokens, best first, ties to the lower token."""
    return [int(token) for token in _best(log_probabilities, count)]


def _best(scores: NDArray[np.floating[Any]], count: int) -> NDArray[np.intp]:
    if count <= 0:
        return np.arange(0)
    if count >= len(scores):
        return np.argsort(-scores, kind="stable")
    border = np.partition(scores, -count)[-count]
    pool = np.flatnonzero(scores >= border)
    return pool[np.argsort(-scores[pool], kind="stable")[:count]]
