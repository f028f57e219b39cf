"""Turns texts into vectors with a loaded model, beside its batch backend. Imports llama_cpp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from farthing.edge.llama_model import LlamaModel
from farthing.edge.token_batch import TokenBatch
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import FailedPrecondition, Internal, InvalidArgument

_MAX_GROUP_SIZE = 32  # texts in one step


class LlamaEmbedder:
    """A context of its own on the same weights: it may run beside the backend's steps, called by one thread.

    A vector is the mean of the last layer's outputs over a text's tokens, with length 1. The
    library computes logits of every token as well and throws them away, so a step takes
    `context_length` × vocabulary × 8 bytes besides the model.
    """

    def __init__(self, weights: LlamaModel, *, context_length: int, thread_count: int) -> None:
        """Raises FailedPrecondition when llama.cpp cannot open the context."""
        self.context_length = min(context_length, weights.train_context_length)
        self.dimension = weights.embedding_size
        params = llama.llama_context_default_params()
        # The library ends the process unless a step takes a multiple of its sequences in tokens.
        self._group_size = min(_MAX_GROUP_SIZE, self.context_length)
        pieces = -(-self.context_length // self._group_size)
        self._step_token_capacity = pieces * self._group_size
        # A text's mean is taken within one pass of the library, so all of a step is one pass;
        # and only sequences in one pool go into one pass whatever their lengths.
        params.n_ctx = params.n_batch = params.n_ubatch = self._step_token_capacity
        params.n_seq_max = self._group_size
        params.kv_unified = True
        params.embeddings = True
        params.pooling_type = llama.LLAMA_POOLING_TYPE_MEAN
        params.n_threads = params.n_threads_batch = thread_count
        params.no_perf = True
        weights.log.forget()
        self._context: Any = llama.llama_init_from_model(weights.handle, params)
        if not self._context:
            raise FailedPrecondition(
                f"llama.cpp cannot open a context for embeddings of {self.context_length} tokens:"
                f" {weights.log.last_error() or 'no reason given'}. Use a shorter one.",
                reason="CONTEXT_UNAVAILABLE",
                metadata={"context_length": str(self.context_length)},
            )
        self._weights = weights
        self._batch = TokenBatch(self._step_token_capacity)
        self._memory = llama.llama_get_memory(self._context)

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """One row for each text's tokens. Raises InvalidArgument for an empty text and one over the context."""
        for index, tokens in enumerate(texts):
            self._check(index, tokens)
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start, group in _group(texts, self._step_token_capacity, self._group_size):
            self._compute(group, vectors[start : start + len(group)])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def close(self) -> None:
        """Frees the context. Idempotent; no other call follows."""
        if self._context:
            llama.llama_free(self._context)
            self._context = None
            del self._weights

    def _check(self, index: int, tokens: Sequence[int]) -> None:
        field = f"texts[{index}]"
        if not tokens:
            raise InvalidArgument(
                f"{field} is empty. Send at least one character.",
                field=field,
                reason="PROMPT_EMPTY",
            )
        if len(tokens) > self.context_length:
            raise InvalidArgument(
                f"{field} has {len(tokens)} tokens; embeddings are made of {self.context_length}"
                " at most. Shorten the text or cut it in pieces.",
                field=field,
                reason="CONTEXT_EXCEEDED",
                metadata={
                    "token_count": str(len(tokens)),
                    "context_length": str(self.context_length),
                },
            )

    def _compute(self, group: Sequence[Sequence[int]], vectors: NDArray[np.float32]) -> None:
        if self._memory:  # encoders have none
            llama.llama_memory_clear(self._memory, False)
        log = self._weights.log
        log.forget()
        self._batch.fill(
            [SlotWork(slot, 0, tokens, len(tokens)) for slot, tokens in enumerate(group)]
        )
        code = llama.llama_decode(self._context, self._batch.handle)
        if code != 0:
            raise Internal(
                f"llama.cpp could not compute embeddings (code {code}): {log.last_error()}",
                reason="ENGINE_STEP_FAILED",
                metadata={"code": str(code), "cause": log.last_error()},
            )
        for slot in range(len(group)):
            pointer = llama.llama_get_embeddings_seq(self._context, slot)
            vectors[slot] = pointer[: self.dimension]


def _group(
    texts: Sequence[Sequence[int]], token_capacity: int, group_size: int
) -> Iterator[tuple[int, Sequence[Sequence[int]]]]:
    """Neighbours that fit into one step together, with the place of the first."""
    start = token_count = 0
    for index, tokens in enumerate(texts):
        full = token_count + len(tokens) > token_capacity or index - start == group_size
        if full and index > start:
            yield start, texts[start:index]
            start, token_count = index, 0
        token_count += len(tokens)
    if start < len(texts):
        yield start, texts[start:]
