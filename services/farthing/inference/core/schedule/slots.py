"""The slots: who is in which, what the others still hold, and the moves that bring a sequence into the right one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farthing.inference.core.schedule.prefixes import BLOCK_TOKEN_COUNT, PrefixIndex
from farthing.inference.core.schedule.row import Row
from farthing.inference.core.schedule.values import Copy, Move, Trim

# What is shorter is as soon computed as moved.
_LEAST_PARKED_COUNT = 4 * BLOCK_TOKEN_COUNT
_LEAST_MOVED_LEFT_COUNT = 8


@dataclass(frozen=True, slots=True)
class Room:
    """How much fits; see SlotLayout."""

    slot_count: int
    slot_token_capacity: int
    token_capacity: int
    step_token_capacity: int
    groups_prompts: bool = False
    mixes_prompts: bool = False

    @property
    def is_shared(self) -> bool:
        """Whether slots take their room from one memory that they cannot all fill."""
        return self.token_capacity < self.slot_count * self.slot_token_capacity


class SlotTable:
    """Rows in slots. Lowest slots first, better classes below worse ones: libraries compute neighbouring slots together
    and pay for gaps, in steps that leave worse rows out too.

    A slot that is left keeps what it holds until somebody needs it: the next request of a conversation, or one with the
    same instructions, begins there.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._rows: list[Row | None] = [None] * room.slot_count
        self._kept_counts = [0] * room.slot_count  # tokens in slots without a row
        self._used_turns = [0] * room.slot_count
        self._turn = 0
        self._index = PrefixIndex(room.slot_count)

    def rows(self) -> list[Row]:
        """Rows that have a slot, by slot."""
        return [row for row in self._rows if row is not None]

    def could_ever_hold(self, row: Row) -> bool:
        """Whether the row fits an empty engine."""
        return row.most_count <= min(self._room.slot_token_capacity, self._room.token_capacity)

    def has_room(self, row: Row, *, without: Sequence[Row] = ()) -> bool:
        """Whether there is a slot and memory for the row to its end, once the rows `without` have left."""
        running = [other for other in self.rows() if other not in without]
        reserved = sum(other.most_count for other in running) + row.most_count
        return len(running) < self._room.slot_count and reserved <= self._room.token_capacity

    def place(self, row: Row, moves: list[Move]) -> None:
        """Give the row a slot, with as much of its beginning as some slot holds. Ask `has_room` before."""
        self._make_room(row, moves)
        chain = row.chain[: (row.token_count - 1) // BLOCK_TOKEN_COUNT]
        self._make_way(row, chain, moves)
        block_count, holders = self._index.longest(chain)
        reused_count = block_count * BLOCK_TOKEN_COUNT
        if row.saved_count >= reused_count:
            block_count, reused_count, holders = 0, 0, frozenset()
        target, source = self._choose_free(holders), -1
        if block_count:
            source = target if target in holders else min(holders)
        if source != target:
            self._park(target, moves, keep=source)
            if block_count:
                moves.append(Copy(source, target, reused_count))
        if source in (target, -1) and self._kept_counts[target] > reused_count:
            moves.append(Trim(target, reused_count))
        self._turn += 1
        if block_count:
            self._used_turns[source] = self._turn
        row.slot, row.slot_turn = target, self._turn
        row.held_count = row.filled_count = reused_count
        self._rows[target] = row
        self._kept_counts[target] = 0
        self._index.hold(target, chain[:block_count])

    def note_held(self, row: Row) -> None:
        """The row's `held_count` or chain has changed."""
        block_count = row.held_count // BLOCK_TOKEN_COUNT
        if len(self._index.chain_of(row.slot)) != min(block_count, len(row.chain)):
            self._index.hold(row.slot, row.chain[:block_count])

    def leave(self, row: Row) -> None:
        """Take the row out of its slot, which keeps what is in it."""
        self._turn += 1
        self._rows[row.slot] = None
        self._kept_counts[row.slot] = row.filled_count
        self._used_turns[row.slot] = self._turn
        row.slot, row.held_count, row.filled_count = -1, 0, 0

    def forget_all(self) -> None:
        """Nothing is held any more, by rows neither."""
        for slot in range(self._room.slot_count):
            self._index.hold(slot, ())
            self._kept_counts[slot] = 0
        for row in self.rows():
            self._rows[row.slot] = None
            row.slot, row.held_count, row.filled_count = -1, 0, 0

    def compact(self, moves: list[Move]) -> None:
        """Close gaps below rows that will go on for a while: by the last row of the best class that is behind one."""
        if self._room.is_shared:
            return
        while last := self._behind_gap(lambda row: True):
            self._move(last, self._rows.index(None), moves)

    def is_better_awaited(self, row: Row) -> bool:
        """Whether a row that is computing its prompt will soon hold more of this row's beginning than any slot does."""
        chain = row.chain[: (row.token_count - 1) // BLOCK_TOKEN_COUNT]
        found, _ = self._index.longest(chain)
        for other in self.rows():
            if other.is_decoding or other.tenant_id != row.tenant_id:
                continue
            shared = _shared_count(chain, other.chain)
            if shared * BLOCK_TOKEN_COUNT > other.held_count and shared >= found + 4:
                return True
        return False

    def held_count(self) -> int:
        """Tokens that rows hold."""
        return sum(row.held_count for row in self.rows())

    def kept_count(self) -> int:
        """Tokens kept in slots without a row."""
        return sum(self._kept_counts)

    def _make_way(self, row: Row, chain: Sequence[bytes], moves: list[Move]) -> None:
        """Free a slot for the newcomer above better rows and below worse ones, by at most a move for each class."""
        if self._room.is_shared or row.left_count < _LEAST_MOVED_LEFT_COUNT:
            return
        free = self._rows.index(None)
        if free in self._index.longest(chain)[1]:
            return  # it begins with what this one keeps
        while better := self._behind_gap(lambda other: other.priority < row.priority):
            self._move(better, free, moves)
            free = self._rows.index(None)
        below = (other for other in self._rows[:free] if other is not None)
        worse = next((other for other in below if other.priority > row.priority), None)
        if worse is not None:
            self._park(free, moves, keep=free)
            self._move(worse, free, moves)

    def _behind_gap(self, may_move: Callable[[Row], bool]) -> Row | None:
        """The last row of the best class that is behind a free slot, will go on for a while and may move."""
        if None not in self._rows:
            return None
        gap = self._rows.index(None)
        behind = (
            row
            for row in self.rows()
            if row.slot > gap and row.left_count >= _LEAST_MOVED_LEFT_COUNT and may_move(row)
        )
        return min(behind, key=lambda row: (row.priority, -row.slot), default=None)

    def _move(self, row: Row, target: int, moves: list[Move]) -> None:
        """Into a free slot, whatever that keeps."""
        slot = row.slot
        chain = list(self._index.chain_of(slot))
        if row.held_count:
            moves.append(Copy(slot, target, row.held_count))
        self._rows[slot], self._rows[target] = None, row
        # What stays behind is a copy.
        self._kept_counts[slot] = row.filled_count
        self._kept_counts[target], row.filled_count = 0, row.held_count
        self._used_turns[slot] = self._used_turns[target]
        self._index.hold(target, chain)
        row.slot = target

    def _choose_free(self, holders: frozenset[int]) -> int:
        """The lowest; where slots share a memory it does not matter, and what is held need not be copied."""
        free = [slot for slot, row in enumerate(self._rows) if row is None]
        if not self._room.is_shared:
            return free[0]
        return min(free, key=lambda slot: (slot not in holders, self._last_use(slot)))

    def _make_room(self, row: Row, moves: list[Move]) -> None:
        """In a memory that slots share, drop what is kept, least recently used first, until the row fits to its end."""
        reserved = sum(other.most_count for other in self.rows()) + row.most_count
        while reserved + self.kept_count() > self._room.token_capacity:
            kept = [slot for slot, count in enumerate(self._kept_counts) if count]
            oldest = min(kept, key=lambda slot: self._used_turns[slot])
            moves.append(Trim(oldest, 0))
            self._kept_counts[oldest] = 0
            self._index.hold(oldest, ())

    def _park(self, slot: int, moves: list[Move], *, keep: int) -> None:
        """Carry over what the slot holds to a free one whose own has been of no use for longer."""
        count = self._kept_counts[slot]
        if count < _LEAST_PARKED_COUNT or self._room.is_shared:
            return
        others = [
            other
            for other, row in enumerate(self._rows)
            if row is None and other not in (slot, keep)
        ]
        if not others:
            return
        chain = list(self._index.chain_of(slot))

        def worth(other: int) -> tuple[int, int]:
            # What only repeats the beginning of what moves in is no loss. The highest of equals: low slots are needed.
            held = self._index.chain_of(other)
            is_repeated = list(held) == chain[: len(held)]
            return (-1 if is_repeated else self._last_use(other), -other)

        other = min(others, key=worth)
        if worth(other)[0] >= self._used_turns[slot]:
            return
        moves.append(Copy(slot, other, count))
        self._kept_counts[other] = count
        self._used_turns[other] = self._used_turns[slot]
        self._index.hold(other, chain)

    def _last_use(self, slot: int) -> int:
        return self._used_turns[slot] if self._kept_counts[slot] else -1


def _shared_count(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
