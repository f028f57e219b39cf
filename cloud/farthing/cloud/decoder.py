"""Runs a decoder graph token by token; keys and values stay on the device from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from farthing.inference.backend import Interrupted, Logits
from numpy.typing import NDArray

from farthing.cloud.runtime import OpenedSession
from farthing.inference.store.onnx_signature import DecoderSignature

# Above this size, logits of a whole chunk are not worth fetching from a GPU for the sake of the last row.
_FETCH_LIMIT_BYTES = 1 << 20


class Decoder:
    """One sequence. `step` is called by one thread; `interrupt` by any.

    Every step leaves a new set of key/value tensors and never writes to an old one, so a checkpoint is a reference.
    Checkpoints are kept at `checkpoint_token_count` times a power of two: together they hold at most
    twice the tokens of the longest.
    """

    def __init__(
        self, opened: OpenedSession, signature: DecoderSignature, checkpoint_token_count: int
    ) -> None:
        self._session = opened.session
        self._runtime = opened.runtime
        self._device = opened.device
        self._signature = signature
        self._checkpoint_token_count = checkpoint_token_count
        self._interrupted = False
        self._options = self._runtime.RunOptions()
        self._empty = [
            self._runtime.OrtValue.ortvalue_from_shape_and_type(
                [1, c.head_count, 0, c.head_dimension], np.dtype(c.dtype).type, self._device, 0
            )
            for c in signature.cache
        ]
        self._cache: list[Any] = self._empty
        self._checkpoints: dict[int, list[Any]] = {}
        self.token_count = 0

    def rewind(self, token_count: int) -> int:
        """Goes back to the longest checkpoint of at most `token_count` tokens; tells how many it holds."""
        self._interrupted = False
        self._options = self._runtime.RunOptions()
        if token_count < self.token_count:
            kept = max((n for n in self._checkpoints if n <= token_count), default=0)
            self._cache = self._checkpoints[kept] if kept else self._empty
            self._checkpoints = {n: c for n, c in self._checkpoints.items() if n <= kept}
            self.token_count = kept
        return self.token_count

    def interrupt(self) -> None:
        """Makes the running step and the next ones raise Interrupted, until `rewind`."""
        self._interrupted = True
        self._options.terminate = True

    def close(self) -> None:
        """Frees the sequence and lets go of the session. Idempotent."""
        self._session, self._cache, self._checkpoints = None, [], {}

    def step(self, tokens: Sequence[int]) -> Logits:
        """Appends tokens; logits after the last. Raises Interrupted, and then the sequence is as before the step."""
        vocab_size, width = self._signature.vocab_size, np.dtype(self._signature.logits_dtype)
        size_bytes = len(tokens) * vocab_size * width.itemsize
        if (
            self._device != "cpu"
            and not self._signature.has_logits_count
            and (size_bytes > _FETCH_LIMIT_BYTES and len(tokens) > 1)
        ):
            self._run(tokens[:-1], fetch=False)
            tokens = tokens[-1:]
        logits = self._run(tokens, fetch=True)
        assert logits is not None
        return logits

    def _run(self, tokens: Sequence[int], *, fetch: bool) -> Logits | None:
        if self._interrupted:
            raise Interrupted
        feeds = self._feeds(tokens)  # held here: the binding only points at their memory
        binding = self._bind(feeds, logits_device="cpu" if fetch else self._device)
        try:
            self._session.run_with_iobinding(binding, self._options)
        except (
            Exception
        ) as error:  # the library raises its own classes, all straight from Exception
            if self._interrupted:
                raise Interrupted from error
            raise
        logits, *cache = binding.get_outputs()
        self._cache = cache
        self.token_count += len(tokens)
        if self._is_checkpoint(self.token_count):
            self._checkpoints[self.token_count] = cache
        if not fetch:
            return None
        rows: NDArray[np.floating[Any]] = logits.numpy()
        last: Logits = rows[0, -1].astype(np.float32)
        return last

    def _feeds(self, tokens: Sequence[int]) -> dict[str, NDArray[Any]]:
        count, total = len(tokens), self.token_count + len(tokens)
        feeds: dict[str, NDArray[Any]] = {"input_ids": np.array([tokens], np.int64)}
        if self._signature.has_attention_mask:
            feeds["attention_mask"] = np.ones((1, total), np.int64)
        if self._signature.has_position_ids:
            feeds["position_ids"] = np.arange(total - count, total, dtype=np.int64)[None]
        if self._signature.has_cache_branch:
            feeds["use_cache_branch"] = np.array([self.token_count > 0])
        if self._signature.has_logits_count:
            feeds["num_logits_to_keep"] = np.array(1, np.int64)
        return feeds

    def _bind(self, feeds: dict[str, NDArray[Any]], *, logits_device: str) -> Any:
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for tensor, value in zip(self._signature.cache, self._cache, strict=True):
            binding.bind_ortvalue_input(tensor.past_name, value)
        binding.bind_output("logits", logits_device)
        for tensor in self._signature.cache:
            binding.bind_output(tensor.present_name, self._device)
        return binding

    def _is_checkpoint(self, token_count: int) -> bool:
        chunks, rest = divmod(token_count, self._checkpoint_token_count)
        return rest == 0 and chunks & (chunks - 1) == 0
