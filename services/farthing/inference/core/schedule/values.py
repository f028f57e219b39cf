"""What goes into the scheduler and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from farthing.inference.core.priority import Priority


@dataclass(frozen=True, slots=True)
class Arrival:
    """A sequence that wants to be computed.

    `token_limit` (at least 1) bounds what it may generate. `prefix` has the chain of hashes of the prompt's whole
    blocks (see prefixes.hash_blocks). It leaves the line when it has not begun by `deadline_us`; 0 waits for ever.
    Times are microseconds of any steady clock.
    """

    row_id: int
    tenant_id: str
    priority: Priority
    prompt_count: int
    token_limit: int
    arrival_us: int
    prefix: Sequence[bytes] = ()
    adapter: str = ""
    deadline_us: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Make `target` hold the first `token_count` tokens of `source`."""

    source: int
    target: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Save:
    """Take the row's tokens out of the slot, into host memory, before the slot is used for another."""

    row_id: int
    slot: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Put what was saved of the row into the slot; what was saved may then be forgotten."""

    row_id: int
    slot: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Forget what the slot holds beyond its first `token_count` tokens."""

    slot: int
    token_count: int


Move = Copy | Save | Restore | Trim


@dataclass(frozen=True, slots=True)
class Work:
    """Compute the row's tokens from `start` to before `start + count` in its slot.

    The last `draft_count` of them are guesses. `samples`: the last known token is among them, so the next one is to be
    drawn.
    """

    row_id: int
    slot: int
    start: int
    count: int
    draft_count: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: moves first, in their order, then the work, by ascending slot.

    `expired` rows left the line unserved; `began` maps rows that got a slot for the first time to the prompt tokens
    that they need not compute; `paused` rows gave up their slots.
    """

    moves: tuple[Move, ...] = ()
    work: tuple[Work, ...] = ()
    adapter: str = ""
    expired: tuple[int, ...] = ()
    began: dict[int, int] = field(default_factory=dict)
    paused: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full the engine is. `kv_token_count` is what running rows hold, `cached_token_count` what is kept beside."""

    running_count: int
    waiting_count: int
    paused_count: int
    oldest_wait_us: int
    kv_token_count: int
    cached_token_count: int
    saved_token_count: int
