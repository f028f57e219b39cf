"""A backend that spells a text over and over and takes each step only when the test lets it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from farthing.inference.backend import ChatMessage, Constraint, Interrupted, Logits
from farthing.inference.model import Capability, ModelDescription
from farthing.kit.errors import Internal, Unimplemented

END = 256


class SteppedBackend:
    """Tokens are bytes. The answer to any prompt is `text`, then the end token, unless endless.

    Steps run freely until `hold`; then each waits for `allow` or an interrupt, which is what
    a real library's long step looks like from outside. After `fail_next` a step raises.
    """

    special_texts = frozenset({"<|end|>", "<|user|>"})
    prefill_chunk_token_count = 4

    def __init__(self, text: str = "abc", *, endless: bool = False, context: int = 256) -> None:
        self._text = text.encode()
        self._endless = endless
        self._allowed = threading.Semaphore(0)
        self._held = False
        self._stop = threading.Event()
        self._fail = False
        self.waiting = threading.Event()
        self.sequence: list[int] = []
        self.answered_count = 0
        self.prefilled_counts: list[int] = []
        self.closed = False
        self.model = ModelDescription(
            name="stepped",
            digest="d" * 64,
            format="gguf",
            quantization="F32",
            parameter_count=1,
            context_length=context,
            vocab_size=257,
            bos_ids=(),
            eos_ids=frozenset({END}),
            capabilities=frozenset({Capability.CHAT, Capability.LOGPROBS}),
        )

    def hold(self) -> None:
        """From now on each step waits."""
        self._held = True

    def allow(self, step_count: int = 1) -> None:
        """Lets so many held steps run."""
        self._allowed.release(step_count)

    def fail_next(self) -> None:
        """Makes the next step raise."""
        self._fail = True

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        return "".join(f"{one.role}:{one.content};" for one in messages)

    def constrain(self, json_schema: str) -> Constraint:
        raise Unimplemented("No grammars here.", reason="CAPABILITY_MISSING")

    def rewind(self, token_count: int) -> int:
        self._stop.clear()
        self.answered_count = 0
        del self.sequence[token_count:]
        return len(self.sequence)

    def prefill(self, tokens: Sequence[int]) -> Logits:
        assert 1 <= len(tokens) <= self.prefill_chunk_token_count
        self._step()
        self.prefilled_counts.append(len(tokens))
        self.sequence.extend(tokens)
        return self._logits()

    def decode(self, token: int) -> Logits:
        self._step()
        self.answered_count += 1
        return self._logits()

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self.closed = True

    def _step(self) -> None:
        if self._fail:
            self._fail = False
            raise Internal("The step failed.", reason="STEP_FAILED")
        while self._held and not self._allowed.acquire(timeout=0.005):
            self.waiting.set()
            if self._stop.is_set():
                raise Interrupted

    def _logits(self) -> Logits:
        place = self.answered_count
        if self._endless:
            place %= len(self._text)
        token = self._text[place] if place < len(self._text) else END
        logits = np.zeros(self.model.vocab_size, np.float32)
        logits[token] = 8.0
        return logits
