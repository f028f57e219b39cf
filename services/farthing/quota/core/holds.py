"""Holds: the wish to spend, the money set aside for it, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from farthing.quota.core.keys import Principal


class HoldState(IntEnum):
    """Where a hold is in its life."""

    HELD = 1
    SETTLED = 2
    EXPIRED = 3


class DenialReason(IntEnum):
    """Why a wish was refused. Numbers as in quota.v1."""

    KEY_UNKNOWN = 1
    KEY_INACTIVE = 2
    BUDGET = 3
    REQUEST_RATE = 4
    TOKEN_RATE = 5


class SettleOutcome(IntEnum):
    """What a settlement did. Numbers as in quota.v1."""

    SETTLED = 1
    DUPLICATE = 2
    CONFLICT = 3
    UNKNOWN = 4
    OVER_HOLD = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """A wish to spend between `min_amount` and `amount` nano-USD, min ≤ amount."""

    hold_id: str
    key_digest: bytes
    amount_nano_usd: int
    min_amount_nano_usd: int
    token_count: int
    ttl_ms: int


class Hold(NamedTuple):
    """Money set aside. The last four fields are set when it ends."""

    hold_id: str
    key_id: str
    granted_nano_usd: int
    token_count: int
    create_ms: int
    expire_ms: int
    state: HoldState = HoldState.HELD
    settled_nano_usd: int = 0
    unfunded_nano_usd: int = 0
    settled_token_count: int = 0
    finish_ms: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """Money is held."""

    granted_nano_usd: int
    principal: Principal
    expire_ms: int


@dataclass(frozen=True, slots=True)
class Denial:
    """Nothing is held. An answer, not an error."""

    reason: DenialReason
    node: str
    message: str
    retry_after_ms: int = 0
    principal: Principal | None = None


@dataclass(frozen=True, slots=True)
class End:
    """A settlement: what was really spent and used. Amount zero gives all back."""

    hold_id: str
    amount_nano_usd: int
    token_count: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement did. `unfunded` > 0: it came after its hold had expired and others had the money."""

    outcome: SettleOutcome
    unfunded_nano_usd: int = 0
