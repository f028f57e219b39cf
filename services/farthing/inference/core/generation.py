"""One answer as it grows: logits or a token in, the text to show out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from farthing.inference.batch_backend import Logits
from farthing.inference.core.detokenize import Detokenizer
from farthing.inference.core.reasoning import ReasoningCounter
from farthing.inference.core.request import (
    EngineRequest,
    FinishReason,
    TokenEvent,
    TokenLogprob,
)
from farthing.inference.core.sampling import Constraint, Sampler, likeliest, log_softmax
from farthing.inference.core.stop import StopMatcher


class Drawn(NamedTuple):
    """What a token brought: the token, what to show, and why the answer ended, if it did.

    A token that ends the answer is not part of it, unless the answer ended for its length.
    """

    token: int
    event: TokenEvent | None
    finish_reason: FinishReason | None


class Generation:
    """The state of one answer between steps. `token_limit` ≥ 1; end tokens do not count."""

    def __init__(
        self,
        request: EngineRequest,
        *,
        token_limit: int,
        seed: int,
        eos_ids: frozenset[int],
        token_bytes: Callable[[int], bytes],
        constraint: Constraint | None,
        reasoning: ReasoningCounter | None = None,
    ) -> None:
        self._request = request
        self._token_limit = token_limit
        self._eos_ids = eos_ids
        self._token_bytes = token_bytes
        self._constraint = constraint
        self._reasoning = reasoning or ReasoningCounter(None)
        self._sampler = Sampler(request.sampling, seed)
        self._detokenizer = Detokenizer()
        self._stop = StopMatcher(request.stop)
        self._takes_best = (
            self._sampler.is_greedy and constraint is None and not request.logprobs
        )
        self.token_count = 0

    @property
    def reasoning_count(self) -> int:
        """How many of its tokens were reasoning."""
        return self._reasoning.token_count

    @property
    def takes_best(self) -> bool:
        """Whether the likeliest token is always the next one, so that nobody need see the logits."""
        return self._takes_best

    def draw(self, logits: Logits) -> Drawn:
        """Draw the next token; changes `logits`. Raises Internal when none is possible."""
        raw = log_softmax(logits) if self._request.logprobs else None
        token = self._sampler.draw(logits, self._constraint)
        logprobs: tuple[TokenLogprob, ...] = ()
        if raw is not None and token not in self._eos_ids:
            top = likeliest(raw, self._request.top_logprobs)
            alternatives = tuple(
                TokenLogprob(self._text(other), float(raw[other])) for other in top
            )
            logprobs = (TokenLogprob(self._text(token), float(raw[token]), alternatives),)
        return self.take(token, logprobs)

    def take(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Drawn:
        """Go on with a token that was drawn; without `draw` only when `takes_best`."""
        if token in self._eos_ids:
            return Drawn(token, self.flush(), FinishReason.STOP)
        if self._constraint is not None:
            self._constraint.accept(token)
        self.token_count += 1
        self._reasoning.feed(token)
        released = self._stop.feed(self._detokenizer.feed(self._token_bytes(token)))
        text, reason = released.text, None
        if released.stopped:
            reason = FinishReason.STOP
        elif self.token_count >= self._token_limit:
            text += self._stop.finish()
            reason = FinishReason.LENGTH
        return Drawn(token, TokenEvent(text, 1, logprobs), reason)

    def flush(self) -> TokenEvent | None:
        """The text still held back, when the answer ends without another token."""
        text = self._stop.finish()
        return TokenEvent(text, 0) if text else None

    def close(self) -> None:
        """Free what the answer holds. Idempotent."""
        if self._constraint is not None:
            self._constraint.close()

    def _text(self, token: int) -> str:
        return self._token_bytes(token).decode("utf-8", "replace")
