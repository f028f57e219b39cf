"""The seam to an inference library that computes many sequences in one step: blocking, one model, one calling thread.

A backend has slots; each holds the key-value state of one sequence, from position 0 on. It knows nothing of requests:
what goes into which slot, and when, is the scheduler's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

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
    """A step was given up because `interrupt` was called; every slot is undefined until `reset`."""


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """How much fits. A slot holds up to `slot_token_capacity` tokens, all slots together up to `token_capacity`.

    A step takes up to `step_token_capacity` tokens. `token_bytes` is the memory of one token's keys and values in all
    layers, 0 when a slot's state has a fixed size. Unless `cuts_freely`, dropping the tail of a slot means computing
    what stays again: such a slot is best gone on with as a whole, or begun anew. With `groups_prompts` several prompts
    that begin in one step cost clearly less than in a step each; unless it also `mixes_prompts`, beside rows that
    generate too.
    """

    slot_count: int
    slot_token_capacity: int
    token_capacity: int
    step_token_capacity: int
    token_bytes: int
    cuts_freely: bool = True
    groups_prompts: bool = False
    mixes_prompts: bool = False


class SlotWork(NamedTuple):
    """Tokens to append to one slot in a step; at least one.

    The slot holds `start` tokens or more; what it holds beyond is dropped first. Logits are wanted after each of the
    last `wanted_count` tokens, 0..len(tokens).
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted_count: int = 1


class StepOutput(Protocol):
    """The logits that a step's work wanted, a row each, in the order of work and tokens. Valid until the next step.

    Where a row is not numbers, reading it raises Internal (NO_TOKEN_POSSIBLE), and slots are undefined until `reset`.
    """

    @property
    def row_count(self) -> int: ...

    def best(self) -> NDArray[np.int64]:
        """The likeliest token of each row, the lowest id on ties; found where the logits are, without moving them."""

    def row(self, index: int) -> Logits:
        """One row in host memory, as a copy that the caller may change."""


class SavedSlot(Protocol):
    """The state of a slot outside the backend's memory, to be put back into any slot of the same backend."""

    @property
    def token_count(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


class BatchBackend(Protocol):
    """A loaded model with its slots. All methods are called by one thread, but for `interrupt` and the properties.

    Every slot is empty at first. Greedy answers do not depend on what other slots compute in the same steps, up to the
    rounding that the library's kernels have for other batch sizes.
    """

    @property
    def model(self) -> ModelDescription: ...

    @property
    def layout(self) -> SlotLayout: ...

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> StepOutput:
        """Computes all work, each slot at most once, in ascending order of slots, with one LoRA adapter or none.

        Keys and values that one adapter made are not valid for another: a slot, and what was copied or restored into
        it, is used with the same adapter until it is cut back to 0. Switching adapters between steps may take a
        millisecond or two, so work of one adapter is best done in one step after the other.

        Raises Interrupted, or Internal (ENGINE_STEP_FAILED) when the library refuses; every slot is undefined after
        either, until `reset`.
        """

    def trim(self, slot: int, token_count: int) -> None:
        """Keeps the slot's first `token_count` tokens, and drops the others. It holds that many or more."""

    def copy(self, source: int, target: int, token_count: int) -> None:
        """Makes `target` hold the first `token_count` tokens of `source`, which stays as it is.

        Raises Internal (ENGINE_STEP_FAILED) when there is no room; `target` is empty then.
        """

    def save(self, slot: int, token_count: int) -> SavedSlot:
        """Takes the slot's first `token_count` tokens out into host memory; the slot stays as it is.

        Raises Internal (ENGINE_STEP_FAILED) when that cannot be; the slot stays as it is then too.
        """

    def restore(self, slot: int, saved: SavedSlot) -> None:
        """Makes the slot hold what was saved.

        Raises Internal (ENGINE_STEP_FAILED) when there is no room; the slot is empty then.
        """

    def reset(self) -> None:
        """Empties every slot and makes the backend whole again after an exception."""

    def interrupt(self) -> None:
        """Makes a running step, and the next ones until `reset`, raise Interrupted as soon as the library can.

        May be called by any thread. A library that cannot ignores it.
        """

    def close(self) -> None:
        """Frees the model. Idempotent; no other call follows."""


class TextCodec(Protocol):
    """Between text and tokens of one model. Its methods may be called by any thread, also during a step."""

    @property
    def special_texts(self) -> frozenset[str]:
        """Texts that `tokenize(special=True)` reads as control tokens, e.g. "<|end|>"."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text, without the model's `bos_ids`.

        With `special`, control tokens written in the text are read as such; without, they are plain text.
        """

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to an answer; b"" for control tokens."""

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """The prompt of a conversation, up to where the assistant's answer begins.

        Raises InvalidArgument when the template refuses the conversation, Unimplemented when the model has no template.
        """
