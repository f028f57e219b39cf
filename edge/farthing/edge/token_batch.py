"""llama.cpp's batch, filled by one numpy store per field and not per token. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp as llama
import numpy as np

from farthing.edge.pointers import point_to
from farthing.inference.batch_backend import SlotWork


class TokenBatch:
    """The arrays of a `llama_batch`; they are ours, the library only reads them."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._slots = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        # Each token's list of sequences has one entry: where its slot is in one array of them.
        self._slot_addresses = np.arange(capacity, dtype=np.uint64) * self._slots.itemsize
        self._slot_addresses += np.uint64(self._slots.ctypes.data)
        self.handle = llama.llama_batch(
            n_tokens=0,
            token=point_to(self._tokens, ctypes.c_int32),
            pos=point_to(self._positions, ctypes.c_int32),
            n_seq_id=point_to(self._ones, ctypes.c_int32),
            seq_id=point_to(self._slot_addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=point_to(self._wanted, ctypes.c_int8),
        )

    def fill(self, work: Sequence[SlotWork]) -> int:
        """Takes the tokens of all work, in its order; returns how many of them want logits."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        wanted: list[int] = []
        row_count = 0
        for one in work:
            count, wanted_count = len(one.tokens), one.wanted_count
            tokens += one.tokens
            row_count += wanted_count
            if count == 1:
                positions.append(one.start)
                slots.append(one.slot)
                wanted.append(wanted_count)
            else:
                positions += range(one.start, one.start + count)
                slots += [one.slot] * count
                wanted += [0] * (count - wanted_count) + [1] * wanted_count
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._slots[:count] = slots
        self._wanted[:count] = wanted
        self.handle.n_tokens = count
        return row_count
