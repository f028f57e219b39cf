"""What each slot of a context holds, and how it is cut back, copied, saved and restored. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from farthing.edge.pointers import point_to
from farthing.edge.saved_slot import LlamaSavedSlot
from farthing.inference.batch_backend import SlotWork
from farthing.kit.errors import Internal

Compute = Callable[[int, Sequence[int], str], None]
"""Computes tokens into an empty slot with an adapter."""


class Slots:
    """Sequences of a llama.cpp context.

    Two kinds of layers cannot be cut back anywhere: a recurrent state has no past, and a sliding
    window that was saved has only what was in sight. For such models the tokens are remembered,
    and what stays after a cut is computed again.
    """

    def __init__(
        self,
        context: Any,
        compute: Compute,
        *,
        slot_count: int,
        is_shared: bool,
        window_token_count: int,
        is_recurrent: bool,
    ) -> None:
        self._context, self._compute = context, compute
        self._memory = llama.llama_get_memory(context)
        self._window_token_count = window_token_count
        remembers = bool(window_token_count) or is_recurrent
        # In one pool for all slots a prefix is copied without moving anything; the spare
        # sequence behind the slots is where a prefix is put to be saved.
        self._spare = slot_count if is_shared and not remembers else None
        self._held_counts = [0] * slot_count
        self._adapters = [""] * slot_count
        self._tokens = [list[int]() for _ in range(slot_count)] if remembers else None

    def held_count(self, slot: int) -> int:
        """How many tokens the slot holds."""
        return self._held_counts[slot]

    def adapter(self, slot: int) -> str:
        """The adapter that the slot's tokens were computed with."""
        return self._adapters[slot]

    def state_bytes(self, slot: int) -> int:
        """Size of the slot's state, saved."""
        return int(llama.llama_state_seq_get_size(self._context, slot))

    def append(self, work: Sequence[SlotWork], adapter: str) -> None:
        """Notes what a step has added."""
        for one in work:
            self._held_counts[one.slot] = one.start + len(one.tokens)
            self._adapters[one.slot] = adapter
            if self._tokens is not None:
                self._tokens[one.slot] += one.tokens

    def cut(self, slot: int, count: int) -> None:
        """Drops what the slot holds beyond `count` tokens."""
        if self._held_counts[slot] <= count:
            return
        if not self._cut_in_place(slot, count):
            assert self._tokens is not None
            kept, adapter = self._tokens[slot][:count], self._adapters[slot]
            self._clear(slot)
            self._compute(slot, kept, adapter)
        self._held_counts[slot] = count
        if self._tokens is not None:
            del self._tokens[slot][count:]

    def cut_added(self, slot: int) -> None:
        """Drops a token that stands behind what the slot holds and was not noted."""
        llama.llama_memory_seq_rm(self._memory, slot, self._held_counts[slot], -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """See BatchBackend."""
        self._require(source, count)
        if source == target:
            self.cut(target, count)
            return
        self._clear(target)
        if count == 0:
            return
        if self._spare is not None:
            llama.llama_memory_seq_cp(self._memory, source, target, 0, count)
            self._note(target, count, self._adapters[source], ())
        else:
            # llama.cpp copies between separate caches only whole ones, 4,096 tokens for the
            # sake of 40; through host memory it is what the slot holds: decision 16.
            held_count = self._held_counts[source]
            tokens = self._tokens[source] if self._tokens is not None else ()
            self._write_state(target, self._read_state(source))
            self._note(target, held_count, self._adapters[source], tokens)
            self.cut(target, count)

    def save(self, slot: int, count: int) -> LlamaSavedSlot:
        """See BatchBackend."""
        self._require(slot, count)
        tokens = tuple(self._tokens[slot]) if self._tokens is not None else ()
        adapter, held_count = self._adapters[slot], self._held_counts[slot]
        if count == held_count:
            state = self._read_state(slot)
        elif self._spare is not None:
            llama.llama_memory_seq_cp(self._memory, slot, self._spare, 0, count)
            state = self._read_state(self._spare)
            llama.llama_memory_seq_rm(self._memory, self._spare, -1, -1)
        else:
            whole = self._read_state(slot)
            try:
                self.cut(slot, count)
                state = self._read_state(slot)
            finally:
                self._write_state(slot, whole)
                self._note(slot, held_count, adapter, tokens)
        return LlamaSavedSlot(count, state, adapter, tokens[:count])

    def restore(self, slot: int, saved: LlamaSavedSlot) -> None:
        """See BatchBackend."""
        self._clear(slot)
        if saved.token_count:
            self._write_state(slot, saved.state)
        self._note(slot, saved.token_count, saved.adapter, saved.tokens)

    def reset(self, *, wipe: bool) -> None:
        """Empties every slot; with `wipe` nothing of what they held is left in memory, which takes longer."""
        llama.llama_memory_clear(self._memory, wipe)
        for slot in range(len(self._held_counts)):
            self._note(slot, 0, "", ())

    def _note(self, slot: int, count: int, adapter: str, tokens: Sequence[int]) -> None:
        self._held_counts[slot], self._adapters[slot] = count, adapter
        if self._tokens is not None:
            self._tokens[slot] = list(tokens)

    def _clear(self, slot: int) -> None:
        if self._held_counts[slot]:
            llama.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._note(slot, 0, "", ())

    def _cut_in_place(self, slot: int, count: int) -> bool:
        if self._window_token_count and count:
            first = llama.llama_memory_seq_pos_min(self._memory, slot)
            # The next token looks back on its window, itself included.
            if first > max(0, count - self._window_token_count + 1):
                return False
        return bool(llama.llama_memory_seq_rm(self._memory, slot, count, -1))

    def _read_state(self, slot: int) -> NDArray[np.uint8]:
        size_bytes = self.state_bytes(slot)
        state = np.empty(size_bytes, np.uint8)
        written = llama.llama_state_seq_get_data(
            self._context, point_to(state, ctypes.c_uint8), size_bytes, slot
        )
        if written != size_bytes or not size_bytes:
            raise _failed("take a slot's state out", f"{written} of {size_bytes} bytes")
        return state

    def _write_state(self, slot: int, state: NDArray[np.uint8]) -> None:
        if not llama.llama_state_seq_set_data(
            self._context, point_to(state, ctypes.c_uint8), state.nbytes, slot
        ):
            raise _failed("put a slot's state back", "there may be no room for it")

    def _require(self, slot: int, count: int) -> None:
        if not 0 <= count <= self._held_counts[slot]:
            raise _failed(
                f"use {count} tokens of slot {slot}", f"it holds {self._held_counts[slot]}"
            )


def _failed(what: str, why: str) -> Internal:
    return Internal(
        f"llama.cpp could not {what}: {why}.",
        reason="ENGINE_STEP_FAILED",
        metadata={"cause": why},
    )
