"""The slower way for graphs that cannot be given slots: each sequence by itself, its cache grown by the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.cloud.slots.likeliest import check_row, check_tokens, find_likeliest
from farthing.cloud.slots.memory import Array
from farthing.cloud.slots.options import StepOptions
from farthing.inference.batch_backend import Logits, SlotWork
from farthing.inference.store.onnx_signature import DecoderSignature


@dataclass(slots=True)
class _Sequence:
    """The cache tensors as the library made them; they are never written to again."""

    token_count: int = 0
    cache: list[Any] = field(default_factory=list)


class PlainOutput:
    """Implements StepOutput over logits in host memory."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    @property
    def row_count(self) -> int:
        """See StepOutput."""
        return len(self._rows)

    def best(self) -> NDArray[np.int64]:
        """See StepOutput."""
        return check_tokens(find_likeliest(self._rows))

    def row(self, index: int) -> Logits:
        """See StepOutput."""
        values: Logits = self._rows[index].copy()
        return check_row(values)


@dataclass(frozen=True, slots=True)
class SavedSequence:
    """Implements SavedSlot."""

    token_count: int
    tensors: tuple[Array, ...]

    @property
    def size_bytes(self) -> int:
        """See SavedSlot."""
        return sum(tensor.nbytes for tensor in self.tensors)


class PlainEngine:
    """Any decoder with a cache in Optimum's naming. One thread."""

    def __init__(
        self,
        session: Any,
        runtime: Any,
        device: str,
        signature: DecoderSignature,
        *,
        slot_count: int,
        vocab_size: int,
    ) -> None:
        self._session, self._runtime, self._device = session, runtime, device
        self._signature, self._vocab_size = signature, vocab_size
        self._slots = [_Sequence() for _ in range(slot_count)]
        self._empty = [
            self._on_device(np.zeros((1, c.head_count, 0, c.head_dimension), c.dtype))
            for c in signature.cache
        ]

    @property
    def token_bytes(self) -> int:
        """Keys and values of a token in all layers."""
        return self._signature.cache_bytes_per_token

    def step(self, work: Sequence[SlotWork], options: StepOptions) -> PlainOutput:
        """Computes all work, one slot after the other. Raises whatever the library raises."""
        rows = [np.empty((0, self._vocab_size), np.float32)]
        for one in work:
            sequence = self._slots[one.slot]
            self._cut(sequence, one.start)
            silent_count = len(one.tokens) - one.wanted_count
            if self._device != "cpu" and 0 < silent_count < len(one.tokens):
                # Logits of a whole prompt are not worth fetching for the sake of the last rows.
                self._run(sequence, one.tokens[:silent_count], 0, options)
                rows.append(
                    self._run(sequence, one.tokens[silent_count:], one.wanted_count, options)
                )
            else:
                rows.append(self._run(sequence, one.tokens, one.wanted_count, options))
        return PlainOutput(np.concatenate(rows))

    def trim(self, slot: int, token_count: int) -> None:
        """See BatchBackend."""
        self._cut(self._slots[slot], token_count)

    def copy(self, source: int, target: int, token_count: int) -> None:
        """See BatchBackend. Tensors are shared: a step makes new ones."""
        origin = self._slots[source]
        self._slots[target] = copied = _Sequence(origin.token_count, origin.cache)
        self._cut(copied, token_count)

    def save(self, slot: int, token_count: int) -> SavedSequence:
        """See BatchBackend."""
        cache = self._slots[slot].cache
        return SavedSequence(
            token_count, tuple(tensor.numpy()[:, :, :token_count].copy() for tensor in cache)
        )

    def restore(self, slot: int, saved: SavedSequence) -> None:
        """See BatchBackend."""
        tensors = [self._on_device(tensor) for tensor in saved.tensors]
        self._slots[slot] = _Sequence(saved.token_count, tensors)

    @property
    def held(self) -> Sequence[int]:
        """Tokens that each slot holds."""
        return [sequence.token_count for sequence in self._slots]

    def reset(self) -> None:
        """Empties every slot."""
        self._slots = [_Sequence() for _ in self._slots]

    def _cut(self, sequence: _Sequence, token_count: int) -> None:
        if token_count == 0:
            sequence.cache = self._empty
        elif token_count < sequence.token_count:
            sequence.cache = [
                self._on_device(tensor.numpy()[:, :, :token_count].copy())
                for tensor in sequence.cache
            ]
        sequence.token_count = token_count

    def _run(
        self,
        sequence: _Sequence,
        tokens: Sequence[int],
        wanted_count: int,
        options: StepOptions,
    ) -> Array:
        """Appends the tokens; the last logits, [wanted_count, vocabulary]."""
        feeds = self._feeds(sequence, tokens, wanted_count)  # held while the library reads them
        binding = self._session.io_binding()
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        for tensor, value in zip(self._signature.cache, sequence.cache, strict=True):
            binding.bind_ortvalue_input(tensor.past_name, value)
        binding.bind_output("logits", "cpu" if wanted_count else self._device)
        for tensor in self._signature.cache:
            binding.bind_output(tensor.present_name, self._device)
        self._session.run_with_iobinding(binding, options.plain())
        logits, *sequence.cache = binding.get_outputs()
        sequence.token_count += len(tokens)
        if not wanted_count:
            return np.empty((0, self._vocab_size), np.float32)
        rows: Array = logits.numpy()[0, -wanted_count:].astype(np.float32)
        return rows

    def _feeds(
        self, sequence: _Sequence, tokens: Sequence[int], wanted_count: int
    ) -> dict[str, Array]:
        signature, total = self._signature, sequence.token_count + len(tokens)
        feeds: dict[str, Array] = {"input_ids": np.array([tokens], np.int64)}
        if signature.has_attention_mask:
            feeds["attention_mask"] = np.ones((1, total), np.int64)
        if signature.has_position_ids:
            feeds["position_ids"] = np.arange(sequence.token_count, total, dtype=np.int64)[None]
        if signature.has_cache_branch:
            feeds["use_cache_branch"] = np.array([sequence.token_count > 0])
        if signature.has_logits_count:
            feeds["num_logits_to_keep"] = np.array(max(1, wanted_count), np.int64)
        return feeds

    def _on_device(self, values: Array) -> Any:
        return self._runtime.OrtValue.ortvalue_from_numpy(values, self._device, 0)
