"""The likeliest token of a row of logits, or the error that says there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.inference.batch_backend import Logits
from farthing.kit.errors import Internal

# Stands for the likeliest token of a row that is not numbers, here and in the graph: see adapt.py.
NO_TOKEN = -1


def find_likeliest(rows: NDArray[Any]) -> NDArray[np.int64]:
    """The likeliest token of each row, the lowest on ties; NO_TOKEN where that row's largest logit is not finite."""
    found: NDArray[np.int64] = rows.argmax(axis=1)  # NaN counts as the largest
    found[~np.isfinite(rows[np.arange(len(found)), found])] = NO_TOKEN
    return found


def check_tokens(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same tokens. Internal (NO_TOKEN_POSSIBLE) when there is none for a row."""
    if (found == NO_TOKEN).any():
        raise _no_token_possible()
    return found


def check_row(logits: Logits) -> Logits:
    """The same logits. Internal (NO_TOKEN_POSSIBLE) when some of them are not numbers."""
    if np.isnan(logits).any():
        raise _no_token_possible()
    return logits


def _no_token_possible() -> Internal:
    return Internal("The model gave no token that may come next.", reason="NO_TOKEN_POSSIBLE")
