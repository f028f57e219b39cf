"""What others need of quota: who a key belongs to, money held before work and settled after it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol


class Principal(NamedTuple):
    """Who pays for what a key does."""

    key_id: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    default_policy: str
    admin: bool


@dataclass(slots=True)
class ReserveRequest:
    """A wish to spend between `min_amount` and `amount` nano-USD, min ≤ amount.

    `hold_id` is new for each wish; the same one again gets the first answer. `key_digest` is the
    SHA-256 of the key's secret. `ttl_ms`, 1000..3600000, is when the money frees itself: choose it
    longer than the work and its settlement can take, for money spent under a hold that has expired
    may be somebody else's by then. `traceparent` (W3C) says in which trace the service shows it; "" in none.
    """

    hold_id: str
    key_digest: bytes
    amount_nano_usd: int
    min_amount_nano_usd: int
    token_count: int
    ttl_ms: int
    traceparent: str = ""


class Reserved(NamedTuple):
    """`granted_nano_usd` is held, min_amount..amount, until `expire_ms`, unix milliseconds."""

    granted_nano_usd: int
    principal: Principal
    expire_ms: int


class DenialReason(StrEnum):
    """The rule that refused."""

    KEY_UNKNOWN = "KEY_UNKNOWN"
    KEY_INACTIVE = "KEY_INACTIVE"
    BUDGET = "BUDGET"
    REQUEST_RATE = "REQUEST_RATE"
    TOKEN_RATE = "TOKEN_RATE"


@dataclass(frozen=True, slots=True)
class Denied:
    """Nothing is held. `retry_after_ms` is 0 when waiting does not help; `principal` is None for unknown keys."""

    reason: DenialReason
    node: str
    message: str
    retry_after_ms: int
    principal: Principal | None


class QuotaClient(Protocol):
    """Holds money and settles it. Strict and leasing clients look the same to their users."""

    def reserve(self, request: ReserveRequest) -> asyncio.Future[Reserved | Denied]:
        """Begin to hold money and rate over the key's whole chain of budgets; the future says so, or why not.

        Unavailable (QUOTA_UNREACHABLE) when nobody can tell: refuse the work then. A future that is
        cancelled leaves nothing held.
        """
        ...

    def settle(self, hold_id: str, amount_nano_usd: int, token_count: int) -> None:
        """Record what was spent under a hold, 0..granted; 0 gives all back. Never waits, and is never lost
        once the outbox it went to has been flushed. ResourceExhausted when that is full.
        """
        ...

    async def authenticate(self, key_digest: bytes) -> Principal | None:
        """Whose key it is; None if unknown, revoked or expired. Unavailable (QUOTA_UNREACHABLE)."""
        ...

    def principal_hint(self, key_digest: bytes) -> Principal | None:
        """Whose key it was when quota was last asked, without asking. Good for choosing what to prepare,
        not for letting anybody in.
        """
        ...
