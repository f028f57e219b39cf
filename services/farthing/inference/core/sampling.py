"""Draws tokens from logits: penalties, temperature, top-k, top-p, min-p."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farthing.inference.backend import Constraint, Logits
from farthing.inference.engine import Sampling
from farthing.kit.errors import Internal


class Sampler:
    """Draws the tokens of one answer. Equal seeds and logits give equal tokens.

    `seed` is any integer; it counts modulo 2**64.
    """

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(seed % 2**64))
        self._use_counts: dict[int, int] = {}

    def draw(self, logits: Logits, constraint: Constraint | None) -> int:
        """Chooses a token; changes `logits`. Raises Internal when none may come next."""
        rules = self._sampling
        if rules.frequency_penalty or rules.presence_penalty:
            for token, use_count in self._use_counts.items():
                logits[token] -= rules.frequency_penalty * use_count + rules.presence_penalty
        if constraint is not None:
            constraint.mask(logits)
        best = int(np.argmax(logits))
        if not np.isfinite(logits[best]):
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
        return int(candidates[min(index, len(candidates) - 1)])


def keep_likely(
    logits: Logits, rules: Sampling
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Tokens that temperature > 0, top-k, top-p and min-p leave, with their weights.

    Weights are shares of the likeliest token's probability. Ties at a border go to the lower
    token, so that the result does not depend on how the sort works.
    """
    if 0 < rules.top_k < len(logits):
        border = np.partition(logits, -rules.top_k)[-rules.top_k]
        pool = np.flatnonzero(logits >= border)
    else:
        pool = np.arange(len(logits))
    scores = logits[pool].astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    if rules.top_k > 0:
        order = order[: rules.top_k]
    candidates, scores = pool[order], scores[order]
    weights = np.exp((scores - scores[0]) / rules.temperature)
    if rules.top_p < 1:
        reached = np.cumsum(weights) / weights.sum()
        keep_count = int(np.searchsorted(reached, rules.top_p, side="left")) + 1
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
    count = min(count, len(log_probabilities))
    if count == 0:
        return []
    border = np.partition(log_probabilities, -count)[-count]
    pool = np.flatnonzero(log_probabilities >= border)
    order = np.argsort(-log_probabilities[pool], kind="stable")[:count]
    return [int(token) for token in pool[order]]
