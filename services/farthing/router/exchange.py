"""One request from hold to settlement: attempts, charges, and a hold that is always settled at their sum."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from farthing.api.cache.v1 import cache_pb2
from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.ledger.v1 import ledger_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.cache import CacheHit
from farthing.clients.quota import Principal, QuotaClient, Reserved
from farthing.kit.errors import FarthingError
from farthing.kit.ids import new_id
from farthing.kit.rpc.context import CallContext
from farthing.kit.telemetry import names
from farthing.kit.telemetry.logs import trace_fields
from farthing.kit.telemetry.spans import Span, SpanRecorder
from farthing.pricing import CostLine, PriceBook, Usage, price_cache_hit, price_usage, sum_lines
from farthing.pricing.lines import merge_lines
from farthing.pricing.wire import encode_line, encode_usage
from farthing.router.attempt import Attempt, finish_reason_of
from farthing.router.core.decide import Decision
from farthing.router.describe import describe_attempt, describe_decision
from farthing.router.settling import Account, Biller, Work, new_charge_id
from farthing.router.validation import CheckedRequest
from farthing.router.wire import REASON_NAME, TIER, encode_cache_decision, encode_decision

_OUTCOME = {
    "local": router_pb2.CACHE_OUTCOME_HIT_LOCAL,
    "shared": router_pb2.CACHE_OUTCOME_HIT_SHARED,
}

_log = logging.getLogger(__name__)

Event = router_pb2.GenerateResponse
Send = Callable[[Event], Awaitable[None]]
"""Takes one event of an answer; returns when the next one may come."""


class Exchange:
    """Close it however the request ends: that settles the hold at the sum of the charges made."""

    def __init__(
        self,
        checked: CheckedRequest,
        call: CallContext,
        hold_id: str,
        grant: Reserved,
        send: Send,
        *,
        biller: Biller,
        quota: QuotaClient,
        recorder: SpanRecorder,
        region: str,
    ) -> None:
        self.checked, self._call, self._hold_id, self._grant = checked, call, hold_id, grant
        self._send, self._biller, self._quota, self._recorder = send, biller, quota, recorder
        self._region, self._settled, self._model_digest = region, False, ""
        self._decision_id = new_id("decision")
        self._started = time.monotonic()
        self._charges: list[ledger_pb2.Charge] = []
        self._charged_nano_usd = 0
        self._lines: list[CostLine] = []
        self._usage = Usage()
        self._texts: list[str] = []
        self._logprobs: list[inference_pb2.TokenLogprob] = []
        self._attempt: Attempt | None = None
        self._attempt_count = 0
        self._price_version = ""
        self._cache_outcome = router_pb2.CACHE_OUTCOME_UNSPECIFIED
        self._first_token_s = 0.0
        self._finish_reason = common_pb2.FINISH_REASON_UNSPECIFIED
        self.last_error: FarthingError | None = None
        ceiling = checked.features.limits.max_cost_nano_usd
        self._limit_nano_usd = (
            min(grant.granted_nano_usd, ceiling) if ceiling else grant.granted_nano_usd
        )

    @property
    def principal(self) -> Principal:
        """Who pays."""
        return self._grant.principal

    @property
    def left_nano_usd(self) -> int:
        """What of the hold is not charged yet."""
        return self._limit_nano_usd - self._charged_nano_usd

    def close(self) -> None:
        """Charge an attempt that was left in the middle as waste, and settle. Never waits: callers may be cancelled."""
        if self._attempt is not None:
            charge = self._close_attempt(ledger_pb2.WASTE_CANCELLED)
            if charge is not None:
                self._biller.record(charge)
        self._settle()

    def _settle(self) -> None:
        """Queue the settlement, once. Called before the last charge is made durable, so that one write carries both."""
        if self._settled:
            return
        self._settled = True
        self._quota.settle(
            self._hold_id,
            self._charged_nano_usd,
            self._usage.input_token_count + self._usage.output_token_count,
        )

    async def begin(self, decision: Decision, *, stream: bool) -> Attempt:
        """Start an attempt on the decision's choice and tell the client of the decision."""
        chosen = decision.chosen
        assert chosen is not None
        self._price_version = decision.price_version
        self._attempt_count += 1
        if self.checked.reads_cache:
            self._cache_outcome = router_pb2.CACHE_OUTCOME_MISS
        span = self._recorder.start(
            f"{names.GEN_AI_OPERATION_CHAT} {chosen.model.name}",
            names.KIND_CLIENT,
            self._call.trace,
        )
        self._attempt = attempt = Attempt(
            chosen,
            span,
            self.left_nano_usd,
            started=time.monotonic(),
            charge_id=new_charge_id(),
        )
        if span.recording:
            span.update(describe_attempt(self.checked, chosen, stream=stream))
            self._describe(decision)
            if self._attempt_count > 1:
                self._call.span.event(
                    names.EVENT_FAILOVER, {names.DECISION_REASON: decision.reason}
                )
        told = encode_decision(decision, self._decision_id, self._grant.granted_nano_usd)
        await self._send(Event(decision=told))
        return attempt

    async def pass_on(self, delta: inference_pb2.Delta) -> None:
        """Remember a delta of the attempt begun and send it to the client."""
        if not self._first_token_s:
            self._first_token_s = time.monotonic() - self._started
        self._texts.append(delta.text)
        if delta.logprobs:
            self._logprobs.extend(delta.logprobs)
        await self._send(Event(delta=delta))

    async def end_attempt(self) -> FarthingError | None:
        """Price, charge and durably record the attempt; then, unless another one follows, send the result.

        Returns its error when nothing of it reached the client; an answer that broke off ends with reason ERROR.
        """
        attempt = self._attempt
        assert attempt is not None
        error = attempt.error
        self._finish_reason = finish_reason_of(attempt)
        waste = ledger_pb2.WASTE_FAILED if error is not None else ledger_pb2.WASTE_UNSPECIFIED
        charge = self._close_attempt(waste)
        if not attempt.may_go_elsewhere:
            self._settle()
        if charge is not None:
            await self._biller.record_durable(charge)
        if error is not None:
            if not attempt.token_count:
                self.last_error = error
                return error
            _log.warning(
                "an answer broke off",
                extra={
                    **trace_fields(self._call.trace),
                    "instance_id": attempt.candidate.instance.instance_id,
                    "model": attempt.candidate.model.name,
                    "token_count": attempt.token_count,
                    "reason": error.reason,
                    "error": error.message,
                },
            )
        await self._send(Event(result=self._result()))
        return None

    async def answer_from_cache(
        self, hit: CacheHit, decision: Decision, book: PriceBook
    ) -> None:
        """Give a cached answer again at the price of a lookup."""
        answer = hit.answer
        lines = price_cache_hit(book)
        self._price_version = book.version
        self._cache_outcome = _OUTCOME[hit.level]
        self._finish_reason = answer.finish_reason
        span = self._recorder.start("cache hit", names.KIND_INTERNAL, self._call.trace)
        span.update({names.CACHE_OUTCOME: hit.level, names.TIER: "cache"})
        usage = Usage(response_bytes=len(answer.text.encode()))
        work = Work(
            new_charge_id(), "cache", answer.model, common_pb2.TIER_CACHE, self._region,
            "", usage, lines, False, answer.finish_reason,
        )  # fmt: skip
        charge = self._bill(work, span)
        span.end("ok")
        # Before the first event: a client that goes away between two of them must find the books complete.
        self._settle()
        await self._biller.record_durable(charge)
        if self._call.span.recording:
            self._describe(decision)
        told = encode_cache_decision(
            decision,
            self._decision_id,
            self._grant.granted_nano_usd,
            model=answer.model,
            region=answer.region,
            lines=lines,
            cost_nano_usd=sum_lines(lines),
        )
        await self._send(Event(decision=told))
        self._first_token_s = time.monotonic() - self._started
        delta = inference_pb2.Delta(
            text=answer.text,
            token_count=answer.usage.output_token_count,
            logprobs=answer.logprobs,
        )
        await self._send(Event(delta=delta))
        await self._send(Event(result=self._result()))

    @property
    def outcome(self) -> tuple[str, str]:
        """Tier that answered and why the answer ended, as metrics name them."""
        reason = REASON_NAME[self._finish_reason]
        return (self._charges[-1].service if self._charges else "", reason)

    def _result(self) -> router_pb2.Result:
        """What the request cost, all attempts together."""
        if len(self._charges) == 1:
            usage, lines = self._charges[0].usage, list(self._charges[0].cost_lines)
        else:
            usage = encode_usage(self._usage)
            lines = [encode_line(line) for line in merge_lines(self._lines)]
        return router_pb2.Result(
            request_id=self.checked.request_id,
            finish_reason=self._finish_reason,
            usage=usage,
            cost_lines=lines,
            total_nano_usd=self._charged_nano_usd,
            decision_id=self._decision_id,
            trace_id=self._call.trace.trace_id,
            latency_ms=round((time.monotonic() - self._started) * 1000),
            first_token_ms=round(self._first_token_s * 1000),
            cache_outcome=self._cache_outcome,
            attempt_count=self._attempt_count,
        )

    def storable_answer(self) -> cache_pb2.CachedAnswer | None:
        """The answer, if it is whole and one attempt made it."""
        whole = (common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH)
        if self._finish_reason not in whole or not self._charges:
            return None
        charge = self._charges[-1]
        return cache_pb2.CachedAnswer(
            text="".join(self._texts),
            logprobs=self._logprobs,
            finish_reason=self._finish_reason,
            usage=charge.usage,
            model=charge.model,
            model_digest=self._model_digest,
            cost_nano_usd=charge.total_nano_usd,
            create_time=charge.charge_time,
            region=charge.region,
        )

    def _close_attempt(self, waste: ledger_pb2.Waste) -> ledger_pb2.Charge | None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        candidate = attempt.candidate
        instance, deployment = candidate.instance, candidate.deployment
        assert deployment is not None
        usage, estimated = attempt.usage(self.checked)
        span, error = attempt.span, attempt.error
        if attempt.completion is not None:
            self._model_digest = attempt.completion.model_digest
        charge = None
        if usage.compute_us or usage.output_token_count or usage.input_token_count:
            lines = price_usage(
                deployment,
                usage,
                uplink_nano_usd_per_gb=candidate.uplink_nano_usd_per_gb,
                downlink_nano_usd_per_gb=candidate.downlink_nano_usd_per_gb,
            )
            reason = finish_reason_of(attempt)
            work = Work(
                attempt.charge_id, instance.tier, candidate.model.name, TIER[instance.tier],
                instance.region, instance.instance_id, usage, lines, estimated, reason, waste,
            )  # fmt: skip
            charge = self._bill(work, span)
        if attempt.first_token_s:
            span.set(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, attempt.first_token_s)
        span.set(
            names.GEN_AI_RESPONSE_FINISH_REASONS,
            [REASON_NAME[finish_reason_of(attempt)]],
        )
        span.end("error" if error is not None else "ok", error.message if error else "")
        return charge

    def _bill(self, work: Work, span: Span) -> ledger_pb2.Charge:
        account = Account(
            self.checked.request_id,
            self._decision_id,
            self._hold_id,
            self.principal,
            self.checked.features.task,
            self._price_version,
        )
        charge, lines = self._biller.bill(
            account, work, span, limit_nano_usd=self.left_nano_usd
        )
        self._charges.append(charge)
        self._charged_nano_usd += charge.total_nano_usd
        self._lines.extend(lines)
        self._usage = self._usage.plus(work.usage) if len(self._charges) > 1 else work.usage
        return charge

    def _describe(self, decision: Decision) -> None:
        self._call.span.update(
            describe_decision(
                self.checked,
                decision,
                self._decision_id,
                self.principal,
                self._grant.granted_nano_usd,
            )
        )
