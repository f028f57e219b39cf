"""The state of a slot in host memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LlamaSavedSlot:
    """Implements SavedSlot. `state` is llama.cpp's own form.

    `adapter` is what the tokens were computed with; `tokens` are known only where the library
    cannot cut a state back and they may have to be computed again.
    """

    token_count: int
    state: NDArray[np.uint8]
    adapter: str
    tokens: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """See SavedSlot."""
        return self.state.nbytes
