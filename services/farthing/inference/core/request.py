"""A request as an engine computes it, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from farthing.inference.batch_backend import ChatMessage
from farthing.inference.core.priority import Priority


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    BUDGET = "budget"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; ranges as in inference.proto. `seed` None draws one at random.

    `logit_bias` is added to the logits of tokens by their number.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A checked request. Exactly one of `messages` and `prompt` is not empty.

    `max_tokens` 0 means up to 256 or what the context leaves; `compute_limit_us` 0 no limit; tokens that come within
    `coalesce_us` may be told together.
    """

    request_id: str
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""
    max_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    candidate_count: int = 0
    json_schema: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    compute_limit_us: int = 0
    priority: Priority = Priority.STANDARD
    tenant_id: str = ""
    adapter: str = ""
    coalesce_us: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, with the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """What a request used, as in common.v1.Usage. Times are device time but for `queue_us`.

    `peak_kv_bytes` is the most memory that its keys and values took at once; `energy_uj` is 0 where no meter is read.
    """

    input_token_count: int = 0
    output_token_count: int = 0
    cached_input_token_count: int = 0
    reasoning_token_count: int = 0
    queue_us: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    peak_kv_bytes: int = 0
    energy_uj: int = 0

    @property
    def compute_us(self) -> int:
        return self.prefill_us + self.decode_us


class TokenEvent(NamedTuple):
    """More of the answer: all tokens that were ready. `text` may be empty, and so may the count."""

    text: str
    token_count: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The end of an answer."""

    finish_reason: FinishReason
    usage: EngineUsage
    model_digest: str


EngineEvent = TokenEvent | DoneEvent
