"""The five steps of every request: hold ∥ look up, decide, generate, price, settle. One path for all of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from farthing.api.router.v1 import router_pb2
from farthing.clients.cache import CacheClient, CacheHit
from farthing.clients.instances.pool import InstancePool
from farthing.clients.quota import Denied, Principal, QuotaClient, ReserveRequest
from farthing.kit.errors import FarthingError
from farthing.kit.ids import new_id
from farthing.kit.rpc.context import CallContext
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.pricing import price_cache_hit, sum_lines
from farthing.router.attempt import run_attempt
from farthing.router.core.candidate import Candidate, Rejection
from farthing.router.core.decide import Decision, World, assess, bounds, choose
from farthing.router.core.policy import Policy
from farthing.router.exchange import Exchange, Send
from farthing.router.metrics import RouterMetrics
from farthing.router.refusals import denial_error, key_error, no_candidate
from farthing.router.settling import Biller
from farthing.router.validation import CheckedRequest
from farthing.router.wire import encode_decision
from farthing.router.world import LiveWorld

DEFAULT_TIMEOUT_S = 300.0
# How long quota may be away before a settlement comes too late for its hold; see docs/decisions/0010.
_HOLD_SLACK_MS = 600_000
_LONGEST_HOLD_MS = 3_600_000
_MOST_ATTEMPTS = 2


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
        self, checked: CheckedRequest, call: CallContext, send: Send, *, stream: bool
    ) -> None:
        """Send the decision, deltas and the result. Whatever happens, the hold is settled at what was charged."""
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
        hold_id = new_id("hold")
        reserving = self._quota.reserve(
            ReserveRequest(
                hold_id,
                digest,
                amount_nano_usd=amounts[1],
                min_amount_nano_usd=amounts[0],
                token_count=checked.features.input_bytes // 4 + checked.features.max_tokens,
                ttl_ms=min(round(timeout_s * 1000) + _HOLD_SLACK_MS, _LONGEST_HOLD_MS),
                traceparent=traceparent,
            )
        )
        hit: CacheHit | None = None
        lookup: asyncio.Task[CacheHit | None] | None = None
        decision: Decision | None = None
        try:
            # A key seen before tells whose cache to ask and what will most likely be decided: both while quota answers.
            hint = self._quota.principal_hint(digest)
            if hint is not None:
                policy = self._policy_of(checked, hint)
                if checked.reads_cache:
                    known = self._cache.peek(
                        hint.organisation_id, checked.hash_for(policy.name)
                    )
                    if known is None:
                        lookup = asyncio.ensure_future(
                            self._look_up(checked, hint, policy, traceparent)
                        )
                    elif isinstance(known, CacheHit):
                        hit = known
                decision = choose(candidates, policy, world, budget_nano_usd=amounts[1])
            grant = await reserving
            if isinstance(grant, Denied):
                raise denial_error(grant)
        except BaseException:
            reserving.cancel()
            if lookup is not None:
                lookup.cancel()
            raise
        exchange = Exchange(
            checked,
            call,
            hold_id,
            grant,
            send,
            biller=self._biller,
            quota=self._quota,
            recorder=self._recorder,
            region=self._region,
        )
        try:
            policy = self._policy_of(checked, grant.principal)
            if lookup is not None:
                hit = await lookup
            elif checked.reads_cache and hint is None:
                hit = await self._look_up(checked, grant.principal, policy, traceparent)
            if (
                decision is None
                or decision.policy != policy.name
                or grant.granted_nano_usd != amounts[1]
            ):
                candidates = assess(checked.features, world)
                decision = choose(
                    candidates, policy, world, budget_nano_usd=grant.granted_nano_usd
                )
            if hit is not None:
                await exchange.answer_from_cache(hit, decision, world.book)
            else:
                deadline = time.monotonic() + timeout_s
                await self._generate(
                    exchange, decision, candidates, stream=stream, deadline=deadline
                )
                self._learn_and_store(checked, exchange, policy.name)
        finally:
            exchange.close()
        self._metrics.answered(*exchange.outcome)

    async def explain(self, checked: CheckedRequest, call: CallContext) -> router_pb2.Decision:
        """The decision for a request, without holding or charging anything."""
        principal = await self._require_key(call.require_key_digest())
        world = self._world.snapshot()
        policy = self._policy_of(checked, principal)
        decision = choose(assess(checked.features, world), policy, world, budget_nano_usd=None)
        return encode_decision(decision, new_id("decision"), 0)

    async def _generate(
        self,
        exchange: Exchange,
        decision: Decision,
        candidates: list[Candidate],
        *,
        stream: bool,
        deadline: float,
    ) -> None:
        self._open_streams += stream
        coalesce = stream and self._open_streams >= self._streams.from_streams
        try:
            for number in range(1, _MOST_ATTEMPTS + 1):
                if decision.chosen is None:
                    raise exchange.last_error or no_candidate(
                        candidates, exchange.checked.features.model
                    )
                attempt = await exchange.begin(decision, stream=stream)
                await run_attempt(
                    attempt,
                    self._pool,
                    exchange.checked,
                    exchange.pass_on,
                    tenant_id=exchange.principal.organisation_id,
                    timeout_s=max(0.001, deadline - time.monotonic()),
                    stream=stream,
                    coalesce_ms=self._streams.coalesce_ms if coalesce else 0,
                )
                error = await exchange.end_attempt()
                if error is None:
                    return
                if not attempt.may_go_elsewhere or number == _MOST_ATTEMPTS:
                    raise error
                self._metrics.failed_over()
                decision = self._decide_again(exchange, attempt.candidate, candidates, error)
        finally:
            self._open_streams -= stream

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
        policy = self._policy_of(exchange.checked, exchange.principal)
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
        self, checked: CheckedRequest, principal: Principal, policy: Policy, traceparent: str
    ) -> CacheHit | None:
        return await self._cache.lookup(
            principal.organisation_id, checked.hash_for(policy.name), traceparent=traceparent
        )

    def _policy_of(self, checked: CheckedRequest, principal: Principal) -> Policy:
        return self._world.policy(checked.policy or principal.default_policy)

    async def _require_key(self, key_digest: bytes) -> Principal:
        principal = await self._quota.authenticate(key_digest)
        if principal is None:
            raise key_error()
        return principal


def _time_left_s(call: CallContext) -> float:
    if call.deadline is None:
        return DEFAULT_TIMEOUT_S
    return max(0.001, call.deadline - time.monotonic())
