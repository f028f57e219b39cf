"""A bounded waiting line: priority classes, age, and fairness among tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from farthing.inference.core.priority import Priority

Item = TypeVar("Item")


class LineFull(Exception):
    """Nobody in the line may be sent away for the newcomer."""


@dataclass(frozen=True, slots=True)
class _Place(Generic[Item]):
    item: Item
    priority: Priority
    arrival_us: int
    turn: int  # start-time fair queueing: a tenant's next request gets the next turn


class WaitingLine(Generic[Item]):
    """Requests waiting for their turn. Times are microseconds of any steady clock.

    A class goes before the next one; waiting `aging_ms` lifts a request by one class, so that
    nobody starves. Inside a class, tenants take turns, and each tenant's own requests keep
    their order. When the line is full, a newcomer displaces the last of a lower class.
    """

    def __init__(self, capacity: int, aging_ms: int) -> None:
        self._capacity = capacity
        self._aging_us = aging_ms * 1000
        self._places: list[_Place[Item]] = []
        self._last_turns: dict[tuple[Priority, str], int] = {}
        self._now_turns: dict[Priority, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def push(self, item: Item, priority: Priority, tenant_id: str, now_us: int) -> Item | None:
        """Lets an item in; the item displaced for it, if any. Raises LineFull."""
        displaced: _Place[Item] | None = None
        if len(self._places) >= self._capacity:
            if not self._places:
                raise LineFull
            displaced = max(self._places, key=lambda place: self._order(place, now_us))
            if self._rank(displaced, now_us) <= priority:
                raise LineFull
            self._places.remove(displaced)
        key = (priority, tenant_id)
        turn = max(self._now_turns.get(priority, 0), self._last_turns.get(key, 0)) + 1
        self._last_turns[key] = turn
        self._places.append(_Place(item, priority, now_us, turn))
        return displaced.item if displaced else None

    def pop(self, now_us: int) -> Item | None:
        """Takes the next one out; None when nobody waits."""
        if not self._places:
            return None
        place = min(self._places, key=lambda place: self._order(place, now_us))
        self._places.remove(place)
        now_turn = max(self._now_turns.get(place.priority, 0), place.turn)
        self._now_turns[place.priority] = now_turn
        self._last_turns = {
            key: turn
            for key, turn in self._last_turns.items()
            if key[0] != place.priority or turn > now_turn
        }
        return place.item

    def remove(self, item: Item) -> bool:
        """Lets an item leave the line; False when it is not in it."""
        for place in self._places:
            if place.item is item:
                self._places.remove(place)
                return True
        return False

    def drain(self) -> list[Item]:
        """Empties the line."""
        items = [place.item for place in self._places]
        self._places.clear()
        return items

    def age_us(self, now_us: int) -> int:
        """How long the oldest one has waited; 0 when nobody waits."""
        return max((now_us - place.arrival_us for place in self._places), default=0)

    def _rank(self, place: _Place[Item], now_us: int) -> int:
        lifted = int(place.priority) - (now_us - place.arrival_us) // self._aging_us
        return max(lifted, int(Priority.INTERACTIVE))

    def _order(self, place: _Place[Item], now_us: int) -> tuple[int, int, int]:
        return (self._rank(place, now_us), place.turn, place.arrival_us)
