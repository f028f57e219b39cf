"""API keys: whose they are, when they work, and what is kept of their secret."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from farthing.quota.core.names import Chain, chain_of

SECRET_PREFIX = "fk-"
SECRET_ENTROPY_BYTES = 24
# A secret that a person chose must be no easier to guess than this.
MIN_CHOSEN_SECRET_CHARS = 24
_SHOWN_CHARS = 8


@dataclass(frozen=True, slots=True)
class Principal:
    """Who pays for what a key does."""

    key_id: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    default_policy: str
    admin: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Times are milliseconds since 1970; None is never."""

    principal: Principal
    chain: Chain
    name: str
    secret_prefix: str
    secret_hash: bytes
    create_ms: int
    expire_ms: int | None = None
    revoke_ms: int | None = None

    @property
    def key_id(self) -> str:
        """Public id."""
        return self.principal.key_id

    def is_active(self, now_ms: int) -> bool:
        """Whether the key works at `now_ms`."""
        return self.revoke_ms is None and (self.expire_ms is None or now_ms < self.expire_ms)


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key to make."""

    key_id: str
    name: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    default_policy: str
    admin: bool
    expire_ms: int | None = None
    revoke_ms: int | None = None


def make_key(wish: KeyWish, *, secret_prefix: str, secret_hash: bytes, now_ms: int) -> ApiKey:
    """The key that `wish` asks for."""
    path = (wish.organisation_id, wish.cost_centre_id, wish.team_id)
    return ApiKey(
        principal=Principal(wish.key_id, *path, wish.default_policy, wish.admin),
        chain=chain_of(wish.key_id, *path),
        name=wish.name,
        secret_prefix=secret_prefix,
        secret_hash=secret_hash,
        create_ms=now_ms,
        expire_ms=wish.expire_ms,
        revoke_ms=wish.revoke_ms,
    )


def make_secret(entropy: bytes) -> str:
    """Spell SECRET_ENTROPY_BYTES random bytes as a secret: "fk-" and 32 URL-safe characters."""
    if len(entropy) != SECRET_ENTROPY_BYTES:
        raise ValueError(f"a secret needs {SECRET_ENTROPY_BYTES} random bytes")
    return SECRET_PREFIX + base64.urlsafe_b64encode(entropy).decode()


def show_prefix(secret: str) -> str:
    """The characters by which a person recognises a secret."""
    return secret[:_SHOWN_CHARS]


def digest_secret(secret: str) -> bytes:
    """What of a secret travels between services: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def hash_digest(salt: bytes, digest: bytes) -> bytes:
    """What of a secret is stored: HMAC-SHA256 of its digest under the store's own salt.

    One salt per store, not per key, because keys are found by it. That is sound for secrets of 192
    random bits: no table and no guessing reaches them, so no slow hash is needed either.
    """
    return hmac.digest(salt, digest, "sha256")
