"""A quota client without a network: asks a store in this process. For tests and tools."""

from __future__ import annotations

import asyncio

from farthing.clients import quota as client
from farthing.kit.clock import Clock
from farthing.quota.core.holds import Denial, End, Wish
from farthing.quota.core.keys import Principal
from farthing.quota.store import QuotaStore


class LocalQuotaClient:
    """Implements clients.quota.QuotaClient on `store`."""

    def __init__(self, store: QuotaStore, *, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._hints: dict[bytes, client.Principal] = {}
        self._settling: set[asyncio.Task[object]] = set()

    def reserve(
        self, request: client.ReserveRequest
    ) -> asyncio.Future[client.Reserved | client.Denied]:
        """See QuotaClient."""
        return asyncio.ensure_future(self._reserve(request))

    async def _reserve(self, request: client.ReserveRequest) -> client.Reserved | client.Denied:
        wish = Wish(
            request.hold_id,
            request.key_digest,
            request.amount_nano_usd,
            request.min_amount_nano_usd,
            request.token_count,
            request.ttl_ms,
        )
        (answer,) = await self._store.reserve([wish], self._now_ms())
        if isinstance(answer, Denial):
            return client.Denied(
                client.DenialReason[answer.reason.name],
                answer.node,
                answer.message,
                answer.retry_after_ms,
                None if answer.principal is None else _convert(answer.principal),
            )
        principal = self._hints[request.key_digest] = _convert(answer.principal)
        return client.Reserved(answer.granted_nano_usd, principal, answer.expire_ms)

    def settle(self, hold_id: str, amount_nano_usd: int, token_count: int) -> None:
        """See QuotaClient; `settled` waits for it."""
        end = End(hold_id, amount_nano_usd, token_count)
        task: asyncio.Task[object] = asyncio.create_task(
            self._store.settle([end], self._now_ms())
        )
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def settled(self) -> None:
        """Return when every settlement so far is booked."""
        await asyncio.gather(*self._settling)

    async def authenticate(self, key_digest: bytes) -> client.Principal | None:
        """See QuotaClient."""
        key = await self._store.find_key(key_digest, self._now_ms())
        if key is None:
            return None
        principal = self._hints[key_digest] = _convert(key.principal)
        return principal

    def principal_hint(self, key_digest: bytes) -> client.Principal | None:
        """See QuotaClient."""
        return self._hints.get(key_digest)

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _convert(principal: Principal) -> client.Principal:
    return client.Principal(
        principal.key_id,
        principal.organisation_id,
        principal.cost_centre_id,
        principal.team_id,
        principal.default_policy,
        principal.admin,
    )
