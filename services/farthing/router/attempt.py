"""One call to one engine: the request it gets, the deltas it gives, and what it used if it does not say so itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.clients.instances.pool import InstancePool
from farthing.kit import errors
from farthing.kit.ids import new_id
from farthing.kit.telemetry.spans import Span
from farthing.pricing import Usage
from farthing.pricing.wire import decode_usage
from farthing.router.core.candidate import Candidate
from farthing.router.core.estimate import limits_within
from farthing.router.validation import CheckedRequest

# Another instance may do better after these; after any other error it would not.
_ELSEWHERE = (
    errors.Unavailable,
    errors.Internal,
    errors.ResourceExhausted,
    errors.Unimplemented,
    errors.Cancelled,
    errors.Aborted,
)
# And these are the instance's own fault, so they count against it.
_OWN_FAULT = (errors.Unavailable, errors.Internal, errors.Cancelled)
_CONTEXT_REASON = "CONTEXT_EXCEEDED"


@dataclass(slots=True)
class Attempt:
    """One attempt's outcome as it unfolds. `usage` is the engine's own report, or an estimate when it gave none."""

    candidate: Candidate
    span: Span
    hold_nano_usd: int
    charge_id: str = field(default_factory=lambda: new_id("charge"))
    started: float = field(default_factory=time.monotonic)
    first_token_s: float = 0.0
    token_count: int = 0
    response_bytes: int = 0
    cut_at_tokens: int = 0
    """Below the caller's max_tokens, because the hold pays for no more; 0 when it does."""
    completion: inference_pb2.Completion | None = None
    error: errors.FarthingError | None = None

    @property
    def may_go_elsewhere(self) -> bool:
        """Whether another instance should try: nothing was sent yet and the error is not the request's."""
        if self.token_count or self.response_bytes or self.error is None:
            return False
        return isinstance(self.error, _ELSEWHERE) or self.error.reason == _CONTEXT_REASON

    def usage(self, checked: CheckedRequest) -> tuple[Usage, bool]:
        """What was used, and whether that is an estimate.

        An engine that vanished or was cancelled reports nothing: then the tokens that arrived count, and the time since
        the call as device time, up to the limit it was given. Nothing arrived: nothing is charged.
        """
        if self.completion is not None:
            return decode_usage(self.completion.usage), False
        if not self.token_count:
            return Usage(), True
        elapsed_us = round((time.monotonic() - self.started) * 1e6)
        first_us = round(self.first_token_s * 1e6)
        return (
            Usage(
                input_token_count=self.candidate.input_token_count,
                output_token_count=self.token_count,
                prefill_us=first_us,
                decode_us=max(0, elapsed_us - first_us),
                compute_us=elapsed_us,
                request_bytes=checked.features.input_bytes,
                response_bytes=self.response_bytes,
            ),
            True,
        )


async def run_attempt(
    attempt: Attempt,
    pool: InstancePool,
    checked: CheckedRequest,
    pass_on: Callable[[inference_pb2.Delta], Awaitable[None]],
    *,
    tenant_id: str,
    timeout_s: float,
    stream: bool,
    coalesce_ms: int,
) -> None:
    """Pass deltas on; afterwards `attempt` holds completion or error. Raises only what is not the engine's doing."""
    request = _request_for(attempt, checked, tenant_id=tenant_id, coalesce_ms=coalesce_ms)
    trace = attempt.span.context
    try:
        with pool.lease(attempt.candidate.instance.instance_id) as lease:
            try:
                if stream:
                    events = lease.generate(request, timeout_s=timeout_s, trace=trace)
                    async with aclosing(events):
                        async for event in events:
                            if event.HasField("delta"):
                                _note(attempt, event.delta)
                                await pass_on(event.delta)
                            else:
                                attempt.completion = event.completion
                else:
                    answer = await lease.complete(request, timeout_s=timeout_s, trace=trace)
                    delta = inference_pb2.Delta(
                        text=answer.text,
                        token_count=answer.completion.usage.output_token_count,
                        logprobs=answer.logprobs,
                    )
                    _note(attempt, delta)
                    attempt.completion = answer.completion
                    await pass_on(delta)
            except errors.FarthingError as error:
                attempt.error = error
                if isinstance(error, _OWN_FAULT):
                    lease.failed()
            else:
                if attempt.completion is None:
                    attempt.error = errors.Internal(
                        "the engine's stream ended without a completion", reason="STREAM_CUT"
                    )
                    lease.failed()
                else:
                    lease.succeeded()
    except errors.Unavailable as error:  # the instance left between decision and call
        attempt.error = error


def _request_for(
    attempt: Attempt, checked: CheckedRequest, *, tenant_id: str, coalesce_ms: int
) -> inference_pb2.GenerateRequest:
    candidate = attempt.candidate
    limits = limits_within(candidate, attempt.hold_nano_usd)
    request = inference_pb2.GenerateRequest(
        request_id=checked.request_id,
        model=candidate.model.name,
        input=checked.input,
        priority=checked.priority,
        compute_limit_us=limits.compute_us,
        tenant_id=tenant_id,
        coalesce_ms=coalesce_ms,
    )
    if limits.max_tokens < checked.features.max_tokens:
        attempt.cut_at_tokens = request.input.max_tokens = limits.max_tokens
    return request


def finish_reason_of(attempt: Attempt) -> common_pb2.FinishReason:
    """Why the attempt ended, as its charge says."""
    completion = attempt.completion
    if completion is not None:
        cut = attempt.cut_at_tokens
        if (
            cut
            and completion.finish_reason == common_pb2.FINISH_REASON_LENGTH
            and completion.usage.output_token_count >= cut
        ):
            return common_pb2.FINISH_REASON_BUDGET  # the hold's length, not the caller's
        return completion.finish_reason
    if attempt.error is not None:
        return common_pb2.FINISH_REASON_ERROR
    return common_pb2.FINISH_REASON_CANCELLED


def _note(attempt: Attempt, delta: inference_pb2.Delta) -> None:
    if not attempt.first_token_s:
        attempt.first_token_s = time.monotonic() - attempt.started
    attempt.token_count += delta.token_count
    attempt.response_bytes += len(delta.text.encode())
