"""Who may see what: an admin key sees everything, any other key its own organisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from farthing.kit.errors import Unauthenticated
from farthing.ledger.core.spend import Dimension, SpendFilter


class KeyOwner(Protocol):
    """What is known of a key's owner."""

    @property
    def organisation_id(self) -> str:
        """The tenant."""
        ...

    @property
    def admin(self) -> bool:
        """Whether it may see every tenant."""
        ...


class Authenticator(Protocol):
    """Resolves API keys: the quota service's client."""

    async def authenticate(self, key_digest: bytes) -> KeyOwner | None:
        """The owner of the key with this SHA-256; None if it is unknown, revoked or expired."""
        ...


@dataclass(frozen=True, slots=True)
class Viewer:
    """Someone whose key was checked."""

    organisation_id: str
    admin: bool

    def restrict(self, filters: tuple[SpendFilter, ...]) -> tuple[SpendFilter, ...]:
        """The filters with what the viewer's rights add: they can only narrow."""
        if self.admin:
            return filters
        return (*filters, SpendFilter(Dimension.ORGANISATION, (self.organisation_id,)))


async def authenticate(authenticator: Authenticator, key_digest: bytes) -> Viewer:
    """The viewer behind a key. Unauthenticated if there is none."""
    owner = await authenticator.authenticate(key_digest)
    if owner is None:
        raise Unauthenticated(
            "the API key is unknown, revoked or expired; `farthing keys create` makes one",
            reason="KEY_INVALID",
        )
    if not owner.admin and not owner.organisation_id:
        raise Unauthenticated("the API key belongs to no organisation", reason="KEY_INVALID")
    return Viewer(owner.organisation_id, owner.admin)
