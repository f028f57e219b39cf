"""Who may see what: an admin key sees everything, any other key its own organisation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from farthing.kit.errors import PermissionDenied
from farthing.ledger.core.spend import Dimension, SpendFilter


class KeyOwner(Protocol):
    """What the quota service knows of a key's owner."""

    @property
    def organisation_id(self) -> str:
        """The tenant."""
        ...

    @property
    def admin(self) -> bool:
        """Whether it may see every tenant."""
        ...


ResolveKey = Callable[[bytes], Awaitable[KeyOwner]]
"""The owner of the key with this SHA-256. Unauthenticated if it is unknown, revoked or expired."""


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


async def identify(resolve: ResolveKey, key_digest: bytes) -> Viewer:
    """The viewer behind a key; errors as ResolveKey."""
    owner = await resolve(key_digest)
    if not owner.admin and not owner.organisation_id:
        raise PermissionDenied(
            "the API key belongs to no organisation; make one with `farthing keys create`",
            reason="KEY_WITHOUT_ORGANISATION",
        )
    return Viewer(owner.organisation_id, owner.admin)
