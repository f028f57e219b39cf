"""QuotaService on the wire: decode, ask the store, encode."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.kit.clock import Clock
from farthing.kit.errors import NotFound, PermissionDenied, Unauthenticated
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc.kept_calls import KeptCalls
from farthing.quota import wire
from farthing.quota.core.holds import End, Settled, SettleOutcome
from farthing.quota.core.keys import (
    SECRET_ENTROPY_BYTES,
    ApiKey,
    digest_secret,
    make_secret,
    show_prefix,
)
from farthing.quota.core.names import require_node
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.store import QuotaStore

_Context = grpc.aio.ServicerContext[Any, Any]
_log = logging.getLogger(__name__)


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """See quota.proto. `make_id` names new keys, `make_entropy` gives that many random bytes."""

    def __init__(
        self,
        store: QuotaStore,
        *,
        clock: Clock,
        metrics: QuotaMetrics,
        make_id: Callable[[str], str],
        make_entropy: Callable[[int], bytes],
    ) -> None:
        self._store, self._clock, self._metrics = store, clock, metrics
        self._make_id, self._make_entropy = make_id, make_entropy
        self.kept_calls = KeptCalls()

    async def BatchReserve(
        self, request: quota_pb2.BatchReserveRequest, context: _Context
    ) -> quota_pb2.BatchReserveResponse:
        """See quota.proto."""
        response = quota_pb2.BatchReserveResponse()
        await self._reserve(request, response)
        return response

    async def StreamReserve(  # type: ignore[override]  # writes its answers itself
        self, requests: object, context: _Context
    ) -> None:
        """See quota.proto."""
        while (request := await self.kept_calls.next(context)) is not None:
            response = quota_pb2.StreamReserveResponse()
            await self._reserve(request, response)
            await context.write(response)

    async def _reserve(self, request: wire.Reservations, response: wire.Results) -> None:
        wishes = wire.read_wishes(request)
        spans = call_context.current().start_items(
            item.traceparent for item in request.reservations
        )
        try:
            answers = await self._store.reserve(wishes, self._now_ms())
        finally:
            for span in spans:
                span.end()
        self._metrics.answered(answers)
        for answer in answers:
            wire.write_answer(answer, response.results.add())

    async def BatchSettle(
        self, request: quota_pb2.BatchSettleRequest, context: _Context
    ) -> quota_pb2.BatchSettleResponse:
        """See quota.proto."""
        ends = wire.read_ends(request)
        results = await self._store.settle(ends, self._now_ms())
        self._metrics.settled(results)
        response = quota_pb2.BatchSettleResponse()
        for end, result in zip(ends, results, strict=True):
            response.results.add(outcome=result.outcome)
            _report(end, result)
        return response

    async def Authenticate(
        self, request: quota_pb2.AuthenticateRequest, context: _Context
    ) -> quota_pb2.AuthenticateResponse:
        """See quota.proto."""
        digest = wire.read_digest(request.key_digest)
        key = await self._store.find_key(digest, self._now_ms())
        response = quota_pb2.AuthenticateResponse()
        if key is not None:
            wire.write_principal(key.principal, response.principal)
        return response

    async def CreateKey(
        self, request: quota_pb2.CreateKeyRequest, context: _Context
    ) -> quota_pb2.CreateKeyResponse:
        """See quota.proto."""
        admin = await self._require_admin()
        now_ms = self._now_ms()
        wish = wire.read_key_wish(request, key_id=self._make_id("key"), now_ms=now_ms)
        limits = wire.read_limits(request.limits)
        secret = make_secret(self._make_entropy(SECRET_ENTROPY_BYTES))
        key = await self._store.add_key(
            wish, digest_secret(secret), show_prefix(secret), limits, now_ms
        )
        _log.info("key made", extra={"key_id": key.key_id, "by_key_id": admin.key_id})
        response = quota_pb2.CreateKeyResponse(secret=secret)
        wire.write_key(key, response.key)
        return response

    async def ListKeys(
        self, request: quota_pb2.ListKeysRequest, context: _Context
    ) -> quota_pb2.ListKeysResponse:
        """See quota.proto."""
        await self._require_admin()
        response = quota_pb2.ListKeysResponse()
        for key in await self._store.list_keys(request.organisation_id):
            wire.write_key(key, response.keys.add())
        return response

    async def RevokeKey(
        self, request: quota_pb2.RevokeKeyRequest, context: _Context
    ) -> quota_pb2.RevokeKeyResponse:
        """See quota.proto."""
        admin = await self._require_admin()
        key = await self._store.revoke_key(request.key_id, self._now_ms())
        _log.info("key revoked", extra={"key_id": key.key_id, "by_key_id": admin.key_id})
        response = quota_pb2.RevokeKeyResponse()
        wire.write_key(key, response.key)
        return response

    async def SetBudget(
        self, request: quota_pb2.SetBudgetRequest, context: _Context
    ) -> quota_pb2.SetBudgetResponse:
        """See quota.proto."""
        admin = await self._require_admin()
        name = require_node(request.node, field="node")
        limits = wire.read_limits(request.limits)
        node = await self._store.set_limits(name, limits, self._now_ms())
        _log.info("budget set", extra={"node": name, "by_key_id": admin.key_id})
        response = quota_pb2.SetBudgetResponse()
        wire.write_budget(node, response.budget)
        return response

    async def ListBudgets(
        self, request: quota_pb2.ListBudgetsRequest, context: _Context
    ) -> quota_pb2.ListBudgetsResponse:
        """See quota.proto."""
        caller = await self._require_key()
        names = None if caller.principal.admin else list(caller.chain)
        if request.node:
            name = require_node(request.node, field="node")
            if names is not None and name not in names:
                raise PermissionDenied(
                    f"{caller.key_id} may see its own budgets only; {name} is not one of them",
                    reason="NODE_FORBIDDEN",
                    metadata={"node": name},
                )
            names = [name]
        nodes = await self._store.list_nodes(names, self._now_ms())
        if request.node and not nodes:
            raise NotFound(
                f"there is no {request.node}; make it with `farthing budget set`",
                reason="NODE_UNKNOWN",
                metadata={"node": request.node},
            )
        response = quota_pb2.ListBudgetsResponse()
        for node in nodes:
            wire.write_budget(node, response.budgets.add())
        return response

    async def _require_key(self) -> ApiKey:
        digest = call_context.current().require_key_digest()
        key = await self._store.find_key(digest, self._now_ms())
        if key is None:
            raise Unauthenticated(
                "the API key is unknown, revoked or expired; `farthing keys create` makes one",
                reason="KEY_INVALID",
            )
        return key

    async def _require_admin(self) -> ApiKey:
        key = await self._require_key()
        if not key.principal.admin:
            raise PermissionDenied(
                f"{key.key_id} is not an administrator's key",
                reason="ADMIN_REQUIRED",
                metadata={"key_id": key.key_id},
            )
        return key

    def _now_ms(self) -> int:
        return self._clock.time_ns() // 1_000_000


def _report(end: End, result: Settled) -> None:
    if result.unfunded_nano_usd:
        _log.warning(
            "a settlement came after its hold expired and found less money than it spent",
            extra={"hold_id": end.hold_id, "unfunded_nano_usd": result.unfunded_nano_usd},
        )
    elif result.outcome is SettleOutcome.UNKNOWN and end.amount_nano_usd == 0:
        pass  # a caller that never got its answer gives back what may have been held
    elif result.outcome not in (SettleOutcome.SETTLED, SettleOutcome.DUPLICATE):
        _log.warning(
            "a settlement was refused: %s",
            result.outcome.name,
            extra={"hold_id": end.hold_id, "amount_nano_usd": end.amount_nano_usd},
        )
