"""Console logins: an admin key opens a session, the browser gets a random token instead of the key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError, PermissionDenied, Unauthenticated
from farthing.ledger.access import ResolveKey, identify

_MAX_SESSION_COUNT = 1_000
_RECHECK_S = 30.0


@dataclass(slots=True)
class _Session:
    key_digest: bytes
    expire_s: float
    checked_s: float


class Sessions:
    """Sessions in memory: a restart of the ledger logs everybody out. `make_token` returns a new
    unguessable text; only its hash is kept."""

    def __init__(
        self,
        resolve_key: ResolveKey,
        clock: Clock,
        *,
        life_s: int,
        make_token: Callable[[], str],
    ) -> None:
        self._resolve_key, self._clock = resolve_key, clock
        self._life_s, self._make_token = life_s, make_token
        self._sessions: dict[bytes, _Session] = {}

    async def open(self, key: str) -> str:
        """Opens a session and returns its token. Unauthenticated for a key that is not known,
        PermissionDenied for one that is not an administrator's."""
        digest = hashlib.sha256(key.encode()).digest()
        await self._require_admin(digest)
        now_s = self._clock.monotonic()
        self._drop_expired(now_s)
        while len(self._sessions) >= _MAX_SESSION_COUNT:
            self._sessions.pop(next(iter(self._sessions)))
        token = self._make_token()
        self._sessions[_hash(token)] = _Session(digest, now_s + self._life_s, now_s)
        return token

    async def check(self, token: str | None) -> bool:
        """True while the session lives and its key is still an administrator's.

        The key is asked for again every 30 s; while quota cannot be reached, the last answer stands.
        """
        if not token:
            return False
        session = self._sessions.get(_hash(token))
        now_s = self._clock.monotonic()
        if session is None or session.expire_s <= now_s:
            self.close(token)
            return False
        if now_s - session.checked_s < _RECHECK_S:
            return True
        try:
            await self._require_admin(session.key_digest)
        except (Unauthenticated, PermissionDenied):
            self.close(token)
            return False
        except FarthingError:
            return True
        session.checked_s = now_s
        return True

    def close(self, token: str | None) -> None:
        """Ends a session; an unknown one is ended already."""
        if token:
            self._sessions.pop(_hash(token), None)

    async def _require_admin(self, key_digest: bytes) -> None:
        viewer = await identify(self._resolve_key, key_digest)
        if not viewer.admin:
            raise PermissionDenied(
                "this is not an administrator's key; the console shows every tenant",
                reason="ADMIN_REQUIRED",
            )

    def _drop_expired(self, now_s: float) -> None:
        for key in [k for k, s in self._sessions.items() if s.expire_s <= now_s]:
            del self._sessions[key]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
