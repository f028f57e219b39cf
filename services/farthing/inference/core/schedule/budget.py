"""How much a step may compute so that those who wait for its tokens do not wait too long."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.core.cost_model import StepSize, Weights
from farthing.inference.core.priority import Priority

_LEAST_CHUNK_COUNT = 16
# Libraries multiply so many tokens at once; those left over take as long as one of a step with nothing else (llama.cpp,
# Q4_0: 25 ms for 32 tokens, 29 for 34; docs/performance.md).
TOKENS_AT_ONCE = 4
# A request that comes waits for the step under way: for a part of its class's target at most, unless steps as short
# would spend more than a fifth of their time on what each costs anyway.
_WAIT_PART = 3
_LEAST_STEPS = 5


@dataclass(frozen=True, slots=True)
class StepTargets:
    """How long a step may take at most while rows of a class generate, microseconds: their time per output token.

    The lowest class present counts as one: a long step serves more tokens a second, a short one sooner.
    """

    interactive_us: int = 50_000
    standard_us: int = 100_000
    batch_us: int = 1_000_000

    def of(self, priority: Priority) -> int:
        """The target of a class."""
        return (self.interactive_us, self.standard_us, self.batch_us)[priority]

    def wait_us(self, priority: Priority, weights: Weights) -> int:
        """How long a step of worse classes may take where requests of this one are expected."""
        return max(self.of(priority) // _WAIT_PART, round(_LEAST_STEPS * weights.step_us))


def fits(weights: Weights, size: StepSize, more: StepSize, target_us: int) -> bool:
    """Whether a step of both sizes stays within the target; unknown weights fit."""
    return weights.predict_us(size.plus(more)) <= target_us


def chunk_count(
    weights: Weights, size: StepSize, wanted_count: int, held_count: int, target_us: int
) -> int:
    """How many of `wanted_count` prompt tokens to add to a step of `size` that others wait for.

    Each of them reads the `held_count` tokens before them. Never below 16: a prompt must get on, also beside rows that
    alone take all the target. A prompt that is cut leaves a step of a round number of tokens.
    """
    least = min(wanted_count, _LEAST_CHUNK_COUNT)
    per_token_us = weights.prefill_us + weights.kv_us * held_count
    if per_token_us <= 0:
        return wanted_count
    left_us = target_us - weights.predict_us(size)
    count = int(left_us / per_token_us)
    if count >= wanted_count:
        return wanted_count
    count -= (size.prefill_count + size.decode_count + count) % TOKENS_AT_ONCE
    return max(least, count)
