"""One answer as it grows: logits in, the next token and the text to show out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farthing.inference.backend import Constraint, Logits
from farthing.inference.core.detokenize import Detokenizer
from farthing.inference.core.sampling import Sampler, likeliest, log_softmax
from farthing.inference.core.stop import StopMatcher
from farthing.inference.engine import EngineRequest, FinishReason, TokenEvent, TokenLogprob


@dataclass(frozen=True, slots=True)
class Step:
    """What one step brought: the token to feed next, or why the answer ended."""

    token: int | None
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
    ) -> None:
        self._request = request
        self._token_limit = token_limit
        self._eos_ids = eos_ids
        self._token_bytes = token_bytes
        self._constraint = constraint
        self._sampler = Sampler(request.sampling, seed)
        self._detokenizer = Detokenizer()
        self._stop = StopMatcher(request.stop)
        self.token_count = 0

    def advance(self, logits: Logits) -> Step:
        """Draws the next token; changes `logits`. Raises Internal when none is possible."""
        raw = log_softmax(logits) if self._request.logprobs else None
        token = self._sampler.draw(logits, self._constraint)
        if token in self._eos_ids:
            return Step(None, self.flush(), FinishReason.STOP)
        if self._constraint is not None:
            self._constraint.accept(token)
        self.token_count += 1
        released = self._stop.feed(self._detokenizer.feed(self._token_bytes(token)))
        text, reason = released.text, None
        if released.stopped:
            reason = FinishReason.STOP
        elif self.token_count >= self._token_limit:
            text += self._stop.finish()
            reason = FinishReason.LENGTH
        logprobs: tuple[TokenLogprob, ...] = ()
        if raw is not None:
            top = likeliest(raw, self._request.top_logprobs)
            alternatives = tuple(
                TokenLogprob(self._text(other), float(raw[other])) for other in top
            )
            logprobs = (TokenLogprob(self._text(token), float(raw[token]), alternatives),)
        event = TokenEvent(text, 1, logprobs)
        return Step(None if reason else token, event, reason)

    def flush(self) -> TokenEvent | None:
        """The text still held back, when the answer ends without another token."""
        text = self._stop.finish()
        return TokenEvent(text, 0) if text else None

    def _text(self, token: int) -> str:
        return self._token_bytes(token).decode("utf-8", "replace")
