"""The seam between servicers and engines: requests in, events out, asynchronous."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol

from farthing.inference.backend import ChatMessage
from farthing.inference.model import ModelDescription


class Priority(IntEnum):
    """Who goes first when there is a queue; lower first."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    BUDGET = "budget"
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; ranges as in inference.proto. `seed` None draws one at random."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A checked request. Exactly one of `messages` and `prompt` is not empty.

    `max_tokens` 0 means up to 256 or what the context leaves; `compute_limit_us` 0 no limit.
    """

    request_id: str
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""
    max_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    json_schema: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    compute_limit_us: int = 0
    priority: Priority = Priority.STANDARD
    tenant_id: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, with the likeliest alternatives."""

    token: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """What a request used, as in common.v1.Usage. Times are device time but for `queue_us`."""

    input_token_count: int = 0
    output_token_count: int = 0
    cached_input_token_count: int = 0
    queue_us: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def compute_us(self) -> int:
        return self.prefill_us + self.decode_us


@dataclass(frozen=True, slots=True)
class TokenEvent:
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


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """How busy an engine is. `version` rises with every change; speeds are 0 until measured."""

    version: int
    running_request_count: int
    queued_request_count: int
    capacity_request_count: int
    queue_age_ms: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


class Engine(Protocol):
    """Serves one model to many requests."""

    @property
    def model(self) -> ModelDescription: ...

    async def start(self) -> None:
        """Begins to serve. Called once."""

    async def close(self, drain_s: float) -> None:
        """Takes no more requests, gives the others `drain_s` seconds, frees the model."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineEvent]:
        """Answers a request: TokenEvents, then one DoneEvent.

        Before the first event it may raise InvalidArgument (prompt and answer do not fit the
        context, bad schema), ResourceExhausted (queue full), Unavailable (closing),
        Unimplemented (the model cannot do what is asked) or Internal. `aclose()` or cancellation
        frees the engine by the next step.
        """

    def load(self) -> EngineLoad:
        """The load at this moment."""

    async def load_changed(self, version: int) -> None:
        """Returns when the load's version is another than this one."""
