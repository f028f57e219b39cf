"""The five steps of every request: hold ∥ look up, decide, generate, price, settle. One path for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from farthing.api.router.v1 import router_pb2
from farthing.clients.cache import CacheClient, CacheHit
from farthing.clients.instances.pool import InstancePool
from farthing.clients.quota import DenialReason, Denied, Principal, QuotaClient, ReserveRequest
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from farthing.kit.ids import new_id
from farthing.kit.rpc.context import CallContext
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.pricing import price_cache_hit, sum_lines
from farthing.router.attempt import run_attempt
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision, World, assess, bounds, choose
from farthing.router.exchange import Exchange
from farthing.router.metrics import RouterMetrics
from farthing.router.settling import Biller
from farthing.router.validation import CheckedRequest
from farthing.router.wire import encode_decision
from farthing.router.world import LiveWorld

DEFAULT_TIMEOUT_S = 300.0
# How long quota may be away before a settlement comes too late for its hold; see docs/decisions/0010.
_HOLD_SLACK_MS = 600_000
_LONGEST_HOLD_MS = 3_600_000
_MOST_ATTEMPTS = 2
# Reasons that time cures, and the one that leaves a candidate out of the question.
_PASSING = (Rejection.UNHEALTHY, Rejection.FAILED, Rejection.MODEL)

Event = router_pb2.GenerateResponse


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """When deltas are coalesced: from how many open streams on, and within how many milliseconds."""

    coalesce_ms: int
    from_streams: int


class Pipeline:
    """Answers requests. Stateless but for what its parts keep; use from one event loop."""

    def __init__(
        self,
        *,
        world: LiveWorld,
        pool: InstancePool,
        quota: QuotaClient,
        cache: CacheClient,
        biller: Biller,
        recorder: SpanRecorder,
        region: str,
        streams: StreamOptions,
        metrics: RouterMetrics,
    ) -> None:
        self._world, self._pool, self._quota, self._cache = world, pool, quota, cache
        self._biller, self._recorder, self._region = biller, recorder, region
        self._streams, self._open_streams, self._metrics = streams, 0, metrics

    async def run(
        self, checked: CheckedRequest, call: CallContext, *, stream: bool
    ) -> AsyncGenerator[Event]:
        """Yield the decision, deltas and the result. Whatever happens, the hold is settled at what was charged."""
        digest = call.require_key_digest()
        if checked.policy:
            self._world.policy(checked.policy)  # a wrong name is refused before money is held
        self._biller.require_room()
        world = self._world.snapshot()
        candidates = assess(checked.features, world)
        amounts = self._amounts(checked, candidates, world)
        if amounts is None:
            await self._require_key(digest)
            raise no_candidate(candidates, checked.features.model)
        timeout_s = _time_left_s(call)
        traceparent = call.trace.traceparent() if call.span.recording else ""
        reservation = ReserveRequest(
            hold_id=new_id("hold"),
            key_digest=digest,
            amount_nano_usd=amounts[1],
            min_amount_nano_usd=amounts[0],
            token_count=checked.features.input_bytes // 4 + checked.features.max_tokens,
            ttl_ms=min(round(timeout_s * 1000) + _HOLD_SLACK_MS, _LONGEST_HOLD_MS),
            traceparent=traceparent,
        )
        # A key seen before tells whose cache to ask, so both calls can go at once; a new key costs one wait more.
        hint = self._quota.principal_hint(digest) if checked.reads_cache else None
        hit: CacheHit | None = None
        lookup: asyncio.Task[CacheHit | None] | None = None
        if hint is not None:
            known = self._cache.peek(hint.organisation_id, self._hash(checked, hint))
            if known is None:
                lookup = asyncio.ensure_future(self._look_up(checked, hint, traceparent))
            elif isinstance(known, CacheHit):
                hit = known
        try:
            answer = await self._quota.reserve(reservation)
        except BaseException:
            if lookup is not None:
                lookup.cancel()
            raise
        if isinstance(answer, Denied):
            if lookup is not None:
                lookup.cancel()
            raise denial_error(answer)
        grant = answer
        exchange = Exchange(
            checked,
            call,
            reservation.hold_id,
            grant,
            biller=self._biller,
            quota=self._quota,
            recorder=self._recorder,
            region=self._region,
        )
        async with exchange:
            policy = self._world.policy(checked.policy or grant.principal.default_policy)
            if lookup is not None:
                hit = await lookup
            elif checked.reads_cache and hint is None:
                hit = await self._look_up(checked, grant.principal, traceparent)
            if hit is not None:
                decision = choose(candidates, policy, world, budget_nano_usd=None)
                cached = exchange.answer_from_cache(hit, decision, world.book)
                async with aclosing(cached) as events:
                    async for event in events:
                        yield event
                self._metrics.answered(*exchange.outcome)
                return
            decision = choose(candidates, policy, world, budget_nano_usd=grant.granted_nano_usd)
            self._open_streams += stream
            try:
                coalesce = self._open_streams >= self._streams.from_streams
                generated = self._generate(
                    exchange,
                    decision,
                    candidates,
                    stream=stream,
                    timeout_s=timeout_s,
                    coalesce_ms=self._streams.coalesce_ms if coalesce else 0,
                )
                # Closed in order, innermost first: the engine is let go before the books are closed.
                async with aclosing(generated) as events:
                    async for event in events:
                        yield event
            finally:
                self._open_streams -= stream
            self._metrics.answered(*exchange.outcome)
            self._learn_and_store(checked, exchange, policy.name)

    async def explain(self, checked: CheckedRequest, call: CallContext) -> router_pb2.Decision:
        """The decision for a request, without holding or charging anything."""
        principal = await self._require_key(call.require_key_digest())
        world = self._world.snapshot()
        policy = self._world.policy(checked.policy or principal.default_policy)
        decision = choose(assess(checked.features, world), policy, world, budget_nano_usd=None)
        return encode_decision(decision, new_id("decision"), 0)

    async def _generate(
        self,
        exchange: Exchange,
        decision: Decision,
        candidates: list[Candidate],
        *,
        stream: bool,
        timeout_s: float,
        coalesce_ms: int,
    ) -> AsyncGenerator[Event]:
        deadline = time.monotonic() + timeout_s
        for number in range(1, _MOST_ATTEMPTS + 1):
            if decision.chosen is None:
                raise exchange.last_error or no_candidate(
                    candidates, exchange.checked.features.model
                )
            yield Event(decision=exchange.begin(decision, stream=stream))
            attempt = exchange.attempt
            answering = run_attempt(
                attempt,
                self._pool,
                exchange.checked,
                tenant_id=exchange.principal.organisation_id,
                timeout_s=max(0.001, deadline - time.monotonic()),
                stream=stream,
                coalesce_ms=coalesce_ms,
            )
            async with aclosing(answering) as deltas:
                async for delta in deltas:
                    exchange.note(delta)
                    yield Event(delta=delta)
            error = await exchange.end_attempt()
            if error is None:
                yield Event(result=exchange.result())
                return
            if not attempt.may_go_elsewhere or number == _MOST_ATTEMPTS:
                raise error
            self._metrics.failed_over()
            decision = self._decide_again(exchange, attempt.candidate, candidates, error)

    def _decide_again(
        self,
        exchange: Exchange,
        failed: Candidate,
        candidates: list[Candidate],
        error: FarthingError,
    ) -> Decision:
        for candidate in candidates:
            if candidate.rejection is Rejection.COST:
                candidate.rejection, candidate.detail = None, ""
        failed.reject(Rejection.FAILED, error.message)
        checked = exchange.checked
        policy = self._world.policy(checked.policy or exchange.principal.default_policy)
        return choose(
            candidates, policy, self._world.snapshot(), budget_nano_usd=exchange.left_nano_usd
        )

    def _learn_and_store(
        self, checked: CheckedRequest, exchange: Exchange, policy: str
    ) -> None:
        answer = exchange.storable_answer()
        if answer is None:
            return
        self._world.learn_output(checked.features.task, answer.usage.output_token_count)
        if checked.writes_cache:
            self._cache.store(
                exchange.principal.organisation_id, checked.hash_for(policy), answer
            )

    def _amounts(
        self, checked: CheckedRequest, candidates: list[Candidate], world: World
    ) -> tuple[int, int] | None:
        """Least useful and greatest amount to hold; None when nothing could answer."""
        amounts = bounds(candidates)
        ceiling = checked.features.limits.max_cost_nano_usd
        if checked.reads_cache:
            lookup = sum_lines(price_cache_hit(world.book))
            amounts = (lookup, max(lookup, amounts[1] if amounts else 0))
        if amounts is not None and ceiling:
            amounts = (min(amounts[0], ceiling), min(amounts[1], ceiling))
        return amounts

    async def _look_up(
        self, checked: CheckedRequest, principal: Principal, traceparent: str
    ) -> CacheHit | None:
        return await self._cache.lookup(
            principal.organisation_id, self._hash(checked, principal), traceparent=traceparent
        )

    def _hash(self, checked: CheckedRequest, principal: Principal) -> bytes:
        policy = checked.policy or principal.default_policy
        return checked.hash_for(self._world.policy(policy).name)

    async def _require_key(self, key_digest: bytes) -> Principal:
        principal = await self._quota.authenticate(key_digest)
        if principal is None:
            raise Unauthenticated(
                "the API key is unknown, revoked or expired; `farthing keys create` makes one",
                reason="KEY_INVALID",
            )
        return principal


def no_candidate(candidates: list[Candidate], model: str) -> FarthingError:
    """Nothing qualified; says for each candidate why. A budget that would have made the difference is named as such."""
    known = sorted({candidate.model.name for candidate in candidates})
    if model and model not in known:
        return NotFound(
            f"model {model!r} is not served here; use auto or one of: {', '.join(known) or 'none yet'}",
            reason="MODEL_NOT_FOUND",
            metadata={"model": model},
        )
    reasons = {
        f"{candidate.model.name}@{candidate.instance.instance_id}": candidate.detail
        for candidate in candidates
    }
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if any(candidate.rejection is Rejection.BUDGET for candidate in candidates):
        return ResourceExhausted(
            f"the budget has too little left for this request: {listed}; raise it with `farthing budget set`",
            reason="BUDGET_EXHAUSTED",
            metadata=reasons,
        )
    if all(candidate.rejection in _PASSING for candidate in candidates):
        return Unavailable(
            f"no instance is ready to answer: {listed or 'none is known yet'}; try again",
            reason="NO_INSTANCE_READY",
            metadata=reasons,
            retry_after_ms=1_000,
        )
    return FailedPrecondition(
        f"no instance can answer this request: {listed or 'none is known'}",
        reason="NO_CANDIDATE",
        metadata=reasons,
    )


def denial_error(denied: Denied) -> FarthingError:
    """A refused reservation as the caller sees it."""
    metadata = {"node": denied.node} if denied.node else {}
    if denied.reason in (DenialReason.KEY_UNKNOWN, DenialReason.KEY_INACTIVE):
        return Unauthenticated(denied.message, reason=denied.reason.value, metadata=metadata)
    reason = "BUDGET_EXHAUSTED" if denied.reason is DenialReason.BUDGET else denied.reason.value
    return ResourceExhausted(
        denied.message, reason=reason, metadata=metadata, retry_after_ms=denied.retry_after_ms
    )


def _time_left_s(call: CallContext) -> float:
    if call.deadline is None:
        return DEFAULT_TIMEOUT_S
    return max(0.001, call.deadline - time.monotonic())
