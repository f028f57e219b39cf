"""A backend whose model is a function of the tokens before: exact, so that any mistake of the engine shows in the text.

It serves as the library in tests of the engine, its process and its service; it can be told to fail, hang and end.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch.admission import AdmissionRules
from farthing.inference.batch_backend import (
    ChatMessage,
    Interrupted,
    Logits,
    SavedSlot,
    SlotLayout,
    SlotWork,
    StepOutput,
)
from farthing.inference.core.schedule.scheduler import Rules
from farthing.inference.model import Capability, ModelDescription
from farthing.inference.process.child import serve_child
from farthing.inference.process.rules import EngineRules
from farthing.inference.process.server import LoadedEngine
from farthing.kit.errors import Internal, InvalidArgument

# The 256 bytes, then the end token. Answers spell letters, mostly.
END = 256
VOCAB_SIZE = 257
_LETTERS = b"etaoin shrdlu"


def toy_logits(tokens: Sequence[int], adapter: str = "") -> Logits:
    """Logits after `tokens`: thirteen letters with a clear favourite; the end once a full stop was said."""
    digest = hashlib.blake2b(repr((list(tokens), adapter)).encode(), digest_size=8).digest()
    logits = np.full(VOCAB_SIZE, -20.0, np.float32)
    for place, letter in enumerate(_LETTERS):
        logits[letter] = digest[place % 8] / 255 + (3.0 if digest[7] % 13 == place else 0.0)
    if tokens and tokens[-1] == ord("."):
        logits[END] = 50.0
    elif digest[6] < 12:
        logits[ord(".")] = 10.0
    return logits


def toy_answer(prompt: str, most: int, adapter: str = "") -> str:
    """The greedy answer to a bare prompt."""
    tokens = list(prompt.encode())
    start = len(tokens)
    while len(tokens) - start < most:
        token = int(toy_logits(tokens, adapter).argmax())
        if token == END:
            break
        tokens.append(token)
    return bytes(tokens[start:]).decode()


@dataclass(frozen=True, slots=True)
class Saved:
    """See SavedSlot."""

    tokens: tuple[int, ...]
    adapter: str

    @property
    def token_count(self) -> int:
        return len(self.tokens)

    @property
    def size_bytes(self) -> int:
        return 8 * len(self.tokens)


class _Output:
    def __init__(self, rows: list[Logits]) -> None:
        self._rows = rows

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def best(self) -> NDArray[np.int64]:
        return np.array([row.argmax() for row in self._rows], np.int64)

    def row(self, index: int) -> Logits:
        return self._rows[index].copy()


class ToyBackend:
    """Implements BatchBackend. Prompts that hold certain words make it misbehave at the step that computes them."""

    def __init__(
        self,
        layout: SlotLayout | None = None,
        *,
        name: str = "toy",
        step_s: float = 0.0,
        token_s: float = 0.0,
        context_length: int = 2_000,
    ) -> None:
        self.layout = layout or SlotLayout(4, 500, 2_000, 256, 8)
        self.model = ModelDescription(
            name=name,
            digest=hashlib.sha256(name.encode()).hexdigest(),
            format="toy",
            quantization="none",
            parameter_count=1,
            context_length=context_length,
            vocab_size=VOCAB_SIZE,
            bos_ids=(),
            eos_ids=frozenset({END}),
            capabilities=frozenset(Capability),
            adapters=frozenset({"shout"}),
        )
        self._step_s, self._token_s = step_s, token_s
        self._stopped = threading.Event()
        self._adapters = [""] * self.layout.slot_count
        self.slots: list[list[int]] = [[] for _ in range(self.layout.slot_count)]
        self.step_count = 0
        self.fail_steps: set[int] = set()
        self.fail_next: str = ""  # a move: "copy", "save", "restore" or "trim"

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> StepOutput:
        assert [one.slot for one in work] == sorted({one.slot for one in work})
        assert sum(len(one.tokens) for one in work) <= self.layout.step_token_capacity
        self.step_count += 1
        if self._stopped.is_set():
            raise Interrupted
        if self.step_count in self.fail_steps:
            self.slots = [[-1]] * len(self.slots)
            raise Internal("the library refused", reason="ENGINE_STEP_FAILED")
        rows = []
        for one in work:
            held = self.slots[one.slot]
            assert one.tokens and one.start <= len(held)
            assert one.start == 0 or self._adapters[one.slot] == adapter
            self._adapters[one.slot] = adapter
            del held[one.start :]
            held.extend(one.tokens)
            assert len(held) <= self.layout.slot_token_capacity
            self._misbehave(bytes(token for token in held if token < END))
            first = len(held) - one.wanted_count
            rows += [
                toy_logits(held[: first + n + 1], adapter) for n in range(one.wanted_count)
            ]
        assert sum(map(len, self.slots)) <= self.layout.token_capacity
        pause_s = self._step_s + self._token_s * sum(len(one.tokens) for one in work)
        if pause_s and self._stopped.wait(pause_s):
            raise Interrupted
        return _Output(rows)

    def _misbehave(self, text: bytes) -> None:
        if b"PLEASE CRASH" in text:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"PLEASE HANG" in text:
            time.sleep(3600)
        if b"PLEASE FAIL" in text:
            raise Internal("the library cannot compute this", reason="ENGINE_STEP_FAILED")

    def _refuse(self, move: str) -> None:
        if self.fail_next == move:
            self.fail_next = ""
            raise Internal(f"the library refused to {move}", reason="ENGINE_STEP_FAILED")

    def trim(self, slot: int, token_count: int) -> None:
        self._refuse("trim")
        assert token_count <= len(self.slots[slot])
        del self.slots[slot][token_count:]

    def copy(self, source: int, target: int, token_count: int) -> None:
        assert source != target and token_count <= len(self.slots[source])
        if self.fail_next == "copy":
            self.slots[target] = []
        self._refuse("copy")
        self.slots[target] = self.slots[source][:token_count]
        self._adapters[target] = self._adapters[source]

    def save(self, slot: int, token_count: int) -> Saved:
        assert token_count <= len(self.slots[slot])
        self._refuse("save")
        return Saved(tuple(self.slots[slot][:token_count]), self._adapters[slot])

    def restore(self, slot: int, saved: SavedSlot) -> None:
        assert isinstance(saved, Saved)
        if self.fail_next == "restore":
            self.slots[slot] = []
        self._refuse("restore")
        self.slots[slot] = list(saved.tokens)
        self._adapters[slot] = saved.adapter

    def reset(self) -> None:
        self.slots = [[] for _ in self.slots]
        self._stopped.clear()

    def interrupt(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        pass


class ToyCodec:
    """Implements TextCodec: a token is a byte."""

    special_texts: frozenset[str] = frozenset()

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        return "".join(f"{one.role}: {one.content}\n" for one in messages) + "assistant: "


class ToyConstraint:
    """Implements Constraint: only vowels may be said; the schema is ignored, unless it is wrong."""

    def __init__(self, schema: str) -> None:
        if schema == "wrong":
            raise InvalidArgument("the schema is wrong", field="json_schema")

    def mask(self, logits: Logits) -> None:
        allowed = np.array([ord(letter) for letter in "eaoiu"])
        kept = logits[allowed].copy()
        logits[:] = -np.inf
        logits[allowed] = kept

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class ToyEmbedder:
    """Implements Embedder."""

    dimension = 2

    def embed(self, texts: Sequence[Sequence[int]], /) -> NDArray[np.float32]:
        return np.eye(2, dtype=np.float32)[[1 - len(tokens) % 2 for tokens in texts]]


def load_toy(name: str = "toy", step_s: float = 0.0, token_s: float = 0.0) -> LoadedEngine:
    """The toy, loaded."""
    backend = ToyBackend(name=name, step_s=step_s, token_s=token_s)
    return LoadedEngine(
        backend, ToyCodec(), ToyConstraint, ToyEmbedder(), 10, facts={"device": "toy"}
    )


def main() -> None:
    """`python -m tests.support.toy_backend FD NAME STEP_S`: the engine's process."""
    descriptor, name, step_s = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if name == "broken":
        raise SystemExit(3)
    rules = EngineRules(Rules(queue_capacity=8), AdmissionRules(draft_count=4))
    serve_child(descriptor, lambda: load_toy(name, step_s), rules)


if __name__ == "__main__":
    main()
