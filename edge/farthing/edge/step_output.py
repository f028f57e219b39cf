"""The logits of one step, read where llama.cpp keeps them. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch_backend import Logits
from farthing.kit.errors import Internal


class LlamaStepOutput:
    """Implements StepOutput. llama.cpp keeps a row for each token that wanted one, and no others."""

    __slots__ = ("_context", "_rows", "_vocab_size", "row_count")

    def __init__(self, context: Any, row_count: int, vocab_size: int) -> None:
        self._context, self.row_count, self._vocab_size = context, row_count, vocab_size
        self._rows: NDArray[np.float32] | None = None

    def best(self) -> NDArray[np.int64]:
        """See StepOutput. Raises Internal when a row holds what is not a number."""
        if not self.row_count:
            return np.zeros(0, np.int64)
        rows = self._view()
        tokens: NDArray[np.int64] = rows.argmax(axis=1)  # the first of equals; a NaN counts as the largest
        if not np.isfinite(rows[np.arange(self.row_count), tokens]).all():
            raise Internal(
                "The model gave no token that may come next.", reason="NO_TOKEN_POSSIBLE"
            )
        return tokens

    def row(self, index: int) -> Logits:
        """See StepOutput."""
        row: Logits = self._view()[index].copy()
        return row

    def _view(self) -> NDArray[np.float32]:
        if self._rows is None:
            pointer = llama.llama_get_logits(self._context)
            floats = ctypes.c_float * (self.row_count * self._vocab_size)
            address = ctypes.addressof(pointer.contents)
            flat = np.ctypeslib.as_array(floats.from_address(address))
            self._rows = flat.reshape(self.row_count, self._vocab_size)
        return self._rows
