"""Names of the slot form's own inputs and outputs, and of those that its mixed variant has in addition."""

from __future__ import annotations

LENGTHS, TOTAL, WANTED = "seqlens_k", "total_sequence_length", "wanted"
BEST = "best"
SHAPE, TOKEN_COUNTS, HAS_BESIDE = "group_shape", "group_token_counts", "has_beside"


def beside(name: str) -> str:
    """What the second group of rows has in the place of the first's."""
    return f"{name}.beside"
