"""What fits into memory: how many slots beside the weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes that a model takes: once, and for each row of its cache; one row more than slots is kept."""

    fixed_bytes: int
    row_bytes: int

    def total_bytes(self, slot_count: int) -> int:
        """With so many slots."""
        return self.fixed_bytes + (slot_count + 1) * self.row_bytes

    def slots_within(self, limit_bytes: int) -> int:
        """Most slots for which all of it stays within a limit; 0 or less when not even one does."""
        return (limit_bytes - self.fixed_bytes) // max(1, self.row_bytes) - 1
