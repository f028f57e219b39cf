"""Where slots lie in the cache's memory. A step computes a window of neighbouring rows, so those that decode
together are kept together.

A row inside the window that has nothing to do costs a row's computing. Moving a slot costs its bytes once. So a slot is
moved when idle rows have cost as much as the move would: at most twice what a prophet would have spent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

# A run reads all weights, an idle row's products cost about as much as an eighth of that.
_IDLE_ROWS_PER_RUN = 8


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

    def release(self, slots: Sequence[int]) -> None:
        """Empties these slots."""
        for slot in slots:
            self._release(slot)

    def renew(self, slots: Sequence[int], *, busy: Collection[int] = ()) -> list[Move]:
        """Gives each of these slots a row for new content. Returns what to move before.

        The rows are neighbours in order, unless to make room for that would cost more than a run; who is `busy` stays.
        """
        self.release(slots)
        free = [row for row, slot in enumerate(self._slots) if slot < 0]
        found, moves = _first_run(free, len(slots)), list[Move]()
        if found is None and (cleared := self._cheapest_run(len(slots), busy)) is not None:
            moves = self._clear(cleared)
            found = cleared
        for slot, row in zip(slots, found or free, strict=False):
            self._settle(slot, row)
        return moves

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
        mover = self._slots[top]
        moves = self._vacate(hole)
        moves.append(Move(top, hole, self._held[mover]))
        self._settle(mover, hole)
        return [move for move in moves if move.token_count]

    def _cheapest_run(self, count: int, busy: Collection[int]) -> range | None:
        """The neighbouring rows whose tenants hold least, if that is worth a run."""
        best = None
        best_cost = _IDLE_ROWS_PER_RUN * self._tokens_per_idle_row + 1
        for first in range(len(self._slots) - count + 1):
            rows = range(first, first + count)
            cost = sum(self.held_in(row) for row in rows)
            if cost < best_cost and not any(self._slots[row] in busy for row in rows):
                best, best_cost = rows, cost
        return best

    def _clear(self, rows: range) -> list[Move]:
        """Moves whoever lies there to free rows elsewhere."""
        moves = [move for row in rows for move in self._vacate(row, outside=rows)]
        return [move for move in moves if move.token_count]

    def _vacate(self, row: int, outside: Collection[int] = ()) -> list[Move]:
        """Moves whoever lies there to the highest free row: what does nothing now should lie out of the way."""
        tenant = self._slots[row]
        if tenant < 0:
            return []
        free = (other for other, slot in enumerate(self._slots) if slot < 0)
        spare = max(other for other in free if other not in outside)
        move = Move(row, spare, self._held[tenant])
        self._settle(tenant, spare)
        return [move]

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


def _first_run(free: Sequence[int], count: int) -> range | None:
    """The first `count` neighbouring rows that are free."""
    for start in range(len(free) - count + 1):
        if free[start + count - 1] - free[start] == count - 1:
            return range(free[start], free[start] + count)
    return None
