"""Names of the slot form's own inputs and outputs."""

from __future__ import annotations

LENGTHS, TOTAL, WANTED = "seqlens_k", "total_sequence_length", "wanted"
BEST = "best"
