"""Where slots lie in the cache's memory. A step computes a window of neighbouring rows, so those that decode
together are kept together.

A row inside the window that has nothing to do costs a row's computing. Moving a slot costs its bytes once. So a slot is
moved when idle rows have cost as much as the move would: at most twice what a prophet would have spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Move:
    """The first `token_count` tokens of a row are to be copied to another; moves are made in order."""

    source: int
    target: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring rows, `first` and `row_count` of them."""

    first: int
    row_count: int


class Rows:
    """Rows for slots, one more than there are, so that one is always free to move to.

    `version` changes with every change of who lies where.
    """

    def __init__(self, slot_count: int, *, tokens_per_idle_row: int) -> None:
        """`tokens_per_idle_row`: so many tokens can be copied in the time that an idle row costs a step."""
        self._rows: list[int] = [-1] * slot_count
        self._slots: list[int] = [-1] * (slot_count + 1)
        self._held = [0] * slot_count
        self._tokens_per_idle_row = max(1, tokens_per_idle_row)
        self._debt_tokens = 0
        self.version = 0

    @property
    def row_count(self) -> int:
        """Rows of memory."""
        return len(self._slots)

    def row_of(self, slot: int) -> int:
        """The row of a slot that holds something; -1 for an empty one."""
        return self._rows[slot]

    @property
    def held(self) -> Sequence[int]:
        """Tokens that each slot holds."""
        return self._held

    def held_in(self, row: int) -> int:
        """Tokens that the slot in this row holds; 0 for a free row."""
        slot = self._slots[row]
        return 0 if slot < 0 else self._held[slot]

    def set_held(self, slot: int, token_count: int) -> None:
        """Records what the slot holds after a step."""
        self._held[slot] = token_count

    def clear(self) -> None:
        """Empties every slot."""
        self._rows = [-1] * len(self._rows)
        self._slots = [-1] * len(self._slots)
        self._held = [0] * len(self._held)
        self._debt_tokens = 0
        self.version += 1

    def renew(self, slots: Sequence[int]) -> None:
        """Gives each of these slots a row for new content, neighbouring ones in order where there are such."""
        for slot in slots:
            self._release(slot)
        free = [row for row, slot in enumerate(self._slots) if slot < 0]
        start = _first_run(free, len(slots))
        for slot, row in zip(slots, free[start:], strict=False):
            self._settle(slot, row)

    def gather(self, slots: Sequence[int]) -> tuple[Window, list[Move]]:
        """The window in which these slots are computed together, and what to move before."""
        rows = sorted(self._rows[slot] for slot in slots)
        moves: list[Move] = []
        idle_count = rows[-1] - rows[0] + 1 - len(rows)
        self._debt_tokens = (
            self._debt_tokens + idle_count * self._tokens_per_idle_row if idle_count else 0
        )
        while rows[-1] - rows[0] + 1 > len(rows):
            hole = next(row for row, other in enumerate(rows, rows[0]) if row != other)
            top = rows.pop()
            cost = self.held_in(top) + self.held_in(hole)
            if cost > self._debt_tokens:
                rows.append(top)
                break
            self._debt_tokens -= cost
            moves += self._pull(top, hole)
            rows = sorted([*rows, hole])
        return Window(rows[0], rows[-1] - rows[0] + 1), moves

    def _pull(self, top: int, hole: int) -> list[Move]:
        """Moves what lies in `top` into `hole`, whose own content goes to a free row."""
        moves = []
        tenant, mover = self._slots[hole], self._slots[top]
        if tenant >= 0:
            # The highest free row: what does nothing now should lie out of the way.
            spare = max(row for row, slot in enumerate(self._slots) if slot < 0)
            moves.append(Move(hole, spare, self._held[tenant]))
            self._settle(tenant, spare)
        moves.append(Move(top, hole, self._held[mover]))
        self._settle(mover, hole)
        return [move for move in moves if move.token_count]

    def _release(self, slot: int) -> None:
        if (row := self._rows[slot]) >= 0:
            self._slots[row] = -1
        self._rows[slot], self._held[slot] = -1, 0
        self.version += 1

    def _settle(self, slot: int, row: int) -> None:
        if (old := self._rows[slot]) >= 0 and self._slots[old] == slot:
            self._slots[old] = -1
        self._rows[slot], self._slots[row] = row, slot
        self.version += 1


def _first_run(free: Sequence[int], count: int) -> int:
    """Where in `free` the first `count` neighbouring rows start; 0 when there are none such."""
    for start in range(len(free) - count + 1):
        if free[start + count - 1] - free[start] == count - 1:
            return start
    return 0
