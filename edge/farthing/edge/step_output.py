"""The logits of one step, read where llama.cpp keeps them. Imports llama_cpp."""

from __future__ import annotations

import ctypes
from math import isfinite, isnan
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch_backend import Logits
from farthing.kit.errors import Internal


class LogitRows:
    """A context's rows of logits: one for each token of the last step that wanted one, and no others."""

    def __init__(self, context: Any, vocab_size: int) -> None:
        self._context, self._vocab_size = context, vocab_size
        # Set when a row was not numbers. What made it so stays behind in the slots' memory and
        # spoils what comes after it, for attention multiplies with it even where it is masked.
        self.is_spoiled = False
        # The library seldom moves its rows, and making an array over them costs 40 µs.
        self._views: dict[tuple[int, int], NDArray[np.float32]] = {}

    def view(self, row_count: int) -> NDArray[np.float32]:
        """Rows in the order of the step's tokens, uncopied; waits for the step if it must."""
        address = ctypes.addressof(llama.llama_get_logits(self._context).contents)
        view = self._views.get((address, row_count))
        if view is None:
            floats = ctypes.c_float * (row_count * self._vocab_size)
            flat = np.ctypeslib.as_array(floats.from_address(address))
            view = flat.reshape(row_count, self._vocab_size)
            self._views[address, row_count] = view
        return view


class LlamaStepOutput:
    """Implements StepOutput."""

    __slots__ = ("_rows", "_view", "row_count")

    def __init__(self, rows: LogitRows, row_count: int) -> None:
        self._rows, self.row_count = rows, row_count
        self._view: NDArray[np.float32] | None = None

    def best(self) -> NDArray[np.int64]:
        """See StepOutput."""
        if not self.row_count:
            return np.zeros(0, np.int64)
        rows = self._rows.view(self.row_count)
        tokens: NDArray[np.int64] = rows.argmax(
            axis=1
        )  # the first of equals; NaN is the largest
        for index, token in enumerate(tokens.tolist()):
            if not isfinite(rows[index, token]):
                raise self._spoil()
        return tokens

    def row(self, index: int) -> Logits:
        """See StepOutput."""
        if self._view is None:
            self._view = self._rows.view(self.row_count)
        row: Logits = self._view[index].copy()
        if isnan(row[0]):  # one NaN in the last layer makes all of a row NaN
            raise self._spoil()
        return row

    def _spoil(self) -> Internal:
        self._rows.is_spoiled = True
        return Internal(
            "The model gave no token that may come next.", reason="NO_TOKEN_POSSIBLE"
        )
