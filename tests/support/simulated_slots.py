"""A backend of lists: it holds tokens instead of keys and values, and refuses what a real one could not do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import Copy, Move, Plan, Restore, Save, Trim


def next_token(tokens: Sequence[int], vocab_size: int = 5) -> int:
    """A model: a function of the whole sequence, with few enough tokens that guesses are sometimes right."""
    digest = hashlib.blake2b(repr(list(tokens)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % vocab_size


class SimulatedSlots:
    """Slots as lists of tokens."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.slots: list[list[int]] = [[] for _ in range(room.slot_count)]
        self.saved: dict[int, list[int]] = {}
        self.computed_count = 0

    def move(self, moves: Sequence[Move]) -> None:
        """Carry out a plan's moves."""
        for one in moves:
            match one:
                case Copy(source, target, count):
                    assert source != target and 0 < count <= len(self.slots[source])
                    self.slots[target] = self.slots[source][:count]
                case Save(row_id, slot, count):
                    assert 0 < count <= len(self.slots[slot])
                    self.saved[row_id] = self.slots[slot][:count]
                case Restore(row_id, slot):
                    self.slots[slot] = self.saved.pop(row_id)
                case Trim(slot, count):
                    assert count < len(self.slots[slot])
                    del self.slots[slot][count:]
        assert sum(map(len, self.slots)) <= self.room.token_capacity

    def step(self, plan: Plan, sequences: dict[int, list[int]]) -> None:
        """Compute a plan's work; `sequences` has each row's tokens, guesses included."""
        slots = [work.slot for work in plan.work]
        assert slots == sorted(set(slots))
        assert sum(work.count for work in plan.work) <= self.room.step_token_capacity
        for work in plan.work:
            tokens, held = sequences[work.row_id], self.slots[work.slot]
            end = work.start + work.count
            assert work.count > 0 and work.start <= len(held) and end <= len(tokens)
            assert held[: work.start] == tokens[: work.start]
            assert end <= self.room.slot_token_capacity
            held[work.start :] = tokens[work.start : end]
            self.computed_count += work.count
        assert sum(map(len, self.slots)) <= self.room.token_capacity

    def lose(self) -> None:
        """Everything in the slots is gone."""
        self.slots = [[] for _ in self.slots]
