"""Decides which models stay in a bounded place, be it memory or a disk: the least recently used go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is in the place (`loaded`) or might be.

    `last_used_s` is on any clock, the same for all. `pinned` models belong in and never leave; `busy` ones cannot leave
    now; `wanted` ones are asked for now. `size_bytes` is what one takes there, 0 or more.
    """

    name: str
    size_bytes: int
    last_used_s: float
    loaded: bool = False
    pinned: bool = False
    busy: bool = False
    wanted: bool = False

    @property
    def may_leave(self) -> bool:
        """Whether it could be unloaded now."""
        return self.loaded and not (self.pinned or self.busy or self.wanted)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model that does not fit. `missing_bytes` more would have been needed after all that may leave has left."""

    name: str
    missing_bytes: int

    @property
    def reason(self) -> str:
        """One clause for a log or an error."""
        return f"{self.name} needs {self.missing_bytes} bytes more than can be freed"


@dataclass(frozen=True, slots=True)
class ResidencyPlan:
    """Unload first, in this order, then load, in this order.

    `used_bytes` is what the place then holds. `excess_bytes` > 0 says by how much that is over the limit, because what
    is there is pinned, busy or wanted.
    """

    unload: tuple[str, ...]
    load: tuple[str, ...]
    refused: tuple[Refusal, ...]
    used_bytes: int
    excess_bytes: int


def plan_residency(models: Sequence[Candidate], limit_bytes: int | None) -> ResidencyPlan:
    """What to unload and load so that at most `limit_bytes` are in use (None: no limit).

    Pinned models are loaded first, then wanted ones, the most recently used first; one that cannot fit is refused and
    moves nobody. Only as many leave as must: none of them would fit again afterwards. Ties go by name, so the same
    values always give the same plan, and a plan that was carried out leaves nothing more to do.
    """
    stay = {model.name: model for model in models if model.loaded}
    leaving: list[Candidate] = []
    load: list[Candidate] = []
    refused: list[Refusal] = []
    used = sum(model.size_bytes for model in stay.values())
    for newcomer in _newcomers(models):
        free = [model for model in stay.values() if model.may_leave]
        least = used - sum(model.size_bytes for model in free) + newcomer.size_bytes
        if limit_bytes is not None and least > limit_bytes:
            refused.append(Refusal(newcomer.name, least - limit_bytes))
            continue
        used += newcomer.size_bytes
        load.append(newcomer)
        if limit_bytes is not None:
            used -= _evict(stay, leaving, used - limit_bytes)
    if limit_bytes is not None:
        used -= _evict(stay, leaving, used - limit_bytes)
        used += _take_back(leaving, limit_bytes - used)
    return ResidencyPlan(
        unload=tuple(model.name for model in leaving),
        load=tuple(model.name for model in load),
        refused=tuple(refused),
        used_bytes=used,
        excess_bytes=max(0, used - limit_bytes) if limit_bytes is not None else 0,
    )


def _newcomers(models: Sequence[Candidate]) -> list[Candidate]:
    asked = [model for model in models if not model.loaded and (model.pinned or model.wanted)]
    return sorted(asked, key=lambda model: (not model.pinned, -model.last_used_s, model.name))


def _evict(stay: dict[str, Candidate], leaving: list[Candidate], excess_bytes: int) -> int:
    """Moves the least recently used of `stay` to `leaving` until the excess is gone; the bytes freed."""
    freed = 0
    by_age = sorted(
        (model for model in stay.values() if model.may_leave),
        key=lambda model: (model.last_used_s, model.name),
    )
    for model in by_age:
        if freed >= excess_bytes:
            break
        freed += model.size_bytes
        leaving.append(stay.pop(model.name))
    return freed


def _take_back(leaving: list[Candidate], room_bytes: int) -> int:
    """Lets those stay after all that fit beside a large one that left later; the bytes they take."""
    taken = 0
    for model in sorted(leaving, key=lambda model: (-model.last_used_s, model.name)):
        if taken + model.size_bytes <= room_bytes:
            taken += model.size_bytes
            leaving.remove(model)
    return taken
