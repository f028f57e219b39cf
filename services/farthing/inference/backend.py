"""The seam to an inference library: blocking, one model, one sequence, one calling thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.inference.model import ModelDescription

Logits = NDArray[np.float32]
Speaker = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Speaker
    content: str


class Interrupted(Exception):
    """A step was given up because `Backend.interrupt` was called; the sequence is undefined."""


class Constraint(Protocol):
    """Limits an answer to a language, token by token. Used by one request, then closed."""

    def mask(self, logits: Logits) -> None:
        """Sets the logits of tokens that may not come next to -inf, in place.

        End tokens stay allowed only where the answer is complete.
        """

    def accept(self, token: int) -> None:
        """Moves on by a token that `mask` allowed. Never called with an end token."""

    def close(self) -> None:
        """Frees what it holds. Idempotent."""


class Backend(Protocol):
    """A model loaded by some library, with the key-value state of one sequence.

    `rewind`, `prefill` and `decode` are called by one thread. The other methods may be called
    by any thread at any time, also while a step runs.
    """

    @property
    def model(self) -> ModelDescription: ...

    @property
    def prefill_chunk_token_count(self) -> int:
        """Most tokens of one `prefill` call. Fixed, so that equal prompts give equal logits."""

    @property
    def special_texts(self) -> frozenset[str]:
        """Texts that `tokenize(special=True)` reads as control tokens, e.g. "<|end|>"."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text, without the model's `bos_ids`.

        With `special`, control tokens written in the text are read as such; without, they are
        plain text.
        """

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to an answer; b"" for control tokens."""

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt of a conversation, up to where the assistant's answer begins.

        Raises InvalidArgument when the template refuses the conversation, Unimplemented
        when the model has no template.
        """

    def constrain(self, json_schema: str) -> Constraint:
        """A constraint to JSON that the schema accepts.

        Raises InvalidArgument for a bad schema, Unimplemented when the backend cannot.
        """

    def rewind(self, token_count: int) -> int:
        """Keeps at most the first `token_count` tokens of the sequence; tells how many it kept.

        `rewind(0)` also makes the backend whole again after an exception.
        """

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Appends 1..prefill_chunk_token_count tokens; logits after the last one.

        The caller may change the array and uses it only until the next step.
        Raises Interrupted.
        """

    def decode(self, token: int) -> Logits:
        """Appends one generated token; otherwise as `prefill`."""

    def interrupt(self) -> None:
        """Makes a running step raise Interrupted as soon as the library can.

        Stays in force until the next `rewind`. A library that cannot ignores it.
        """

    def close(self) -> None:
        """Frees the model. Idempotent; no other call follows."""
