"""The llama.cpp backend: one context, one sequence, on the library's low-level interface.

The library's high-level class keeps a score array of context × vocabulary floats and allows
no cut inside a step; neither suits a small device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama
import numpy as np

from farthing.edge.codec import LlamaCodec
from farthing.edge.llama_log import LibraryLog
from farthing.edge.llama_model import LlamaModel
from farthing.edge.plan import LoadPlan
from farthing.edge.stop_flag import StopFlag
from farthing.inference.backend import ChatMessage, Constraint, Interrupted, Logits
from farthing.inference.model import Capability, ModelDescription
from farthing.kit.errors import FailedPrecondition, Internal

_SEQUENCE = 0
_ABORTED = 2  # llama_decode's result after its abort callback said so


class LlamaBackend:
    """Implements Backend."""

    def __init__(self, plan: LoadPlan) -> None:
        """Loads the model. Raises FailedPrecondition when llama.cpp cannot."""
        self._log = LibraryLog()
        self._weights = LlamaModel(plan.path, self._log)
        codec = self._codec = LlamaCodec(self._weights, plan.name)
        context_length = min(plan.context_length, self._weights.train_context_length)
        self.prefill_chunk_token_count = min(plan.prefill_chunk_token_count, context_length)
        self._stop_flag = StopFlag()
        self._context = self._open_context(plan, context_length)
        self._memory = llama.llama_get_memory(self._context)
        self._batch = _Batch(self.prefill_chunk_token_count)
        self._position = 0
        capabilities = {Capability.JSON_SCHEMA, Capability.LOGPROBS}
        self.model = ModelDescription(
            name=plan.name,
            digest=plan.digest,
            format="gguf",
            quantization=self._weights.quantization,
            parameter_count=self._weights.parameter_count,
            context_length=context_length,
            vocab_size=codec.vocab_size,
            bos_ids=codec.bos_ids,
            eos_ids=codec.eos_ids,
            capabilities=frozenset(
                capabilities | ({Capability.CHAT} if codec.has_chat_template else set())
            ),
            qualities=plan.card.qualities,
            bytes_per_token=plan.card.bytes_per_token,
        )

    @property
    def special_texts(self) -> frozenset[str]:
        """See Backend."""
        return self._codec.special_texts

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """See Backend."""
        return self._codec.tokenize(text, special=special)

    def token_bytes(self, token: int) -> bytes:
        """See Backend."""
        return self._codec.token_bytes(token)

    def render_chat(self, messages: Sequence[ChatMessage]) -> str:
        """See Backend."""
        return self._codec.render_chat(messages)

    def constrain(self, json_schema: str) -> Constraint:
        """See Backend."""
        return self._codec.constrain(json_schema)

    def rewind(self, token_count: int) -> int:
        """See Backend."""
        self._stop_flag.lower()
        kept = min(token_count, self._position)
        if kept <= 0 or not llama.llama_memory_seq_rm(self._memory, _SEQUENCE, kept, -1):
            llama.llama_memory_clear(self._memory, False)
            kept = 0
        self._position = kept
        return kept

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """See Backend."""
        self._batch.fill(tokens, self._position)
        self._log.forget()
        result = llama.llama_decode(self._context, self._batch.handle)
        if result == _ABORTED:
            raise Interrupted
        if result != 0:
            raise Internal(
                f"llama.cpp could not compute a step (code {result}): {self._log.last_error()}",
                reason="ENGINE_STEP_FAILED",
                metadata={"code": str(result), "cause": self._log.last_error()},
            )
        self._position += len(tokens)
        pointer = llama.llama_get_logits_ith(self._context, -1)
        floats = ctypes.c_float * self._codec.vocab_size
        logits: Logits = np.ctypeslib.as_array(
            floats.from_address(ctypes.addressof(pointer.contents))
        )
        return logits

    def decode(self, token: int) -> Logits:
        """See Backend."""
        return self.prefill((token,))

    def interrupt(self) -> None:
        """See Backend."""
        self._stop_flag.raise_()

    def close(self) -> None:
        """See Backend."""
        if self._context:
            self._batch.close()
            llama.llama_free(self._context)
            self._context = None
            del self._codec, self._weights

    def _open_context(self, plan: LoadPlan, context_length: int) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = context_length
        params.n_batch = params.n_ubatch = self.prefill_chunk_token_count
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = plan.thread_count
        params.no_perf = True
        params.abort_callback = self._stop_flag.callback
        params.abort_callback_data = self._stop_flag.address
        self._log.forget()
        context = llama.llama_init_from_model(self._weights.handle, params)
        if not context:
            problem = self._log.last_error() or "no reason given"
            raise FailedPrecondition(
                f"llama.cpp cannot open a context of {context_length} tokens: {problem}."
                " Set FARTHING_EDGE_CONTEXT to less.",
                reason="CONTEXT_UNAVAILABLE",
                metadata={"context_length": str(context_length)},
            )
        return context


class _Batch:
    """llama.cpp's batch, filled through numpy views: one store per field and not per token."""

    def __init__(self, capacity: int) -> None:
        self.handle = llama.llama_batch_init(capacity, 0, 1)
        self._tokens = _view(self.handle.token, ctypes.c_int32, capacity)
        self._positions = _view(self.handle.pos, ctypes.c_int32, capacity)
        self._wanted = _view(self.handle.logits, ctypes.c_int8, capacity)
        _view(self.handle.n_seq_id, ctypes.c_int32, capacity)[:] = 1
        for index in range(capacity):
            self.handle.seq_id[index][0] = _SEQUENCE

    def fill(self, tokens: Sequence[int], position: int) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(position, position + count)
        self._wanted[:count] = 0
        self._wanted[count - 1] = 1
        self.handle.n_tokens = count

    def close(self) -> None:
        llama.llama_batch_free(self.handle)


def _view(pointer: Any, kind: Any, count: int) -> Any:
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(kind)), (count,))
