"""The strict quota client: every hold is asked of the service, over one kept call; settlements go by outbox."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.clients.batch_stream import BatchStream, Waiting
from farthing.clients.outbox import Entry, Outbox
from farthing.clients.quota import DenialReason, Denied, Principal, Reserved, ReserveRequest
from farthing.clients.wire import as_it_is, repeat_field_one
from farthing.kit.errors import FarthingError, InvalidArgument, ResourceExhausted, Unavailable
from farthing.kit.ids import new_span_id, new_trace_id
from farthing.kit.rpc.channel import batch_metadata, decode_error, outgoing_metadata
from farthing.kit.telemetry.spans import TraceContext

SETTLE_KIND = "quota.settle"
_HINT_COUNT = 4_096
_DOUBT_COUNT = 4_096
_BATCH_COUNT = 512
_RETRY_AFTER_MS = 1_000
_RETRY_S = 0.02
_SETTLE_TIMEOUT_S = 10.0
_STREAM_S = 3_600.0
_DIGEST_BYTES = 32
_MIN_TTL_MS, _MAX_TTL_MS = 1_000, 3_600_000
_FINAL = {
    quota_pb2.SETTLE_OUTCOME_CONFLICT: "settled before with another amount",
    quota_pb2.SETTLE_OUTCOME_UNKNOWN: "quota knows no such hold",
    quota_pb2.SETTLE_OUTCOME_OVER_HOLD: "more than was held",
}
_log = logging.getLogger(__name__)
_Waiting = Waiting[ReserveRequest, Reserved | Denied]


class StrictQuotaClient:
    """Implements QuotaClient against the quota service behind `channel`.

    Fails closed: a reserve without an answer in `deadline_ms` is Unavailable (QUOTA_UNREACHABLE). Takes charge of
    outbox entries of kind "quota.settle", those left by an earlier process too.
    """

    def __init__(
        self, channel: grpc.aio.Channel, outbox: Outbox, *, deadline_ms: int = 1_000
    ) -> None:
        self._stub: Any = quota_pb2_grpc.QuotaServiceStub(channel)
        self._settle = channel.unary_unary(
            "/farthing.api.quota.v1.QuotaService/BatchSettle",
            request_serializer=as_it_is,
            response_deserializer=quota_pb2.BatchSettleResponse.FromString,
        )
        self._outbox = outbox
        self._deadline_s = deadline_ms / 1000
        self._hints: OrderedDict[bytes, Principal] = OrderedDict()
        # Holds that may or may not have been made: the call failed after it left.
        self._doubts: dict[str, None] = {}
        self._stream: BatchStream[ReserveRequest, Reserved | Denied] = BatchStream(
            self._open_stream,
            encode=_encode_stream,
            decode=self._take_answers,
            deadline_s=self._deadline_s,
            on_lost=self._recover,
            on_abandoned=self._give_back,
            max_batch_count=_BATCH_COUNT,
        )
        self._recoveries: set[asyncio.Task[None]] = set()
        outbox.attach(SETTLE_KIND, self._deliver)

    def reserve(self, request: ReserveRequest) -> asyncio.Future[Reserved | Denied]:
        """See QuotaClient. InvalidArgument before anything leaves.

        After QUOTA_UNREACHABLE ask again under a new hold id: what the old one may hold is given back.
        """
        _check(request)
        return self._stream.submit(request)

    def settle(self, hold_id: str, amount_nano_usd: int, token_count: int) -> None:
        """See QuotaClient."""
        settlement = quota_pb2.Settlement(
            hold_id=hold_id, amount_nano_usd=amount_nano_usd, token_count=token_count
        )
        self._outbox.append(SETTLE_KIND, hold_id, settlement.SerializeToString())

    async def authenticate(self, key_digest: bytes) -> Principal | None:
        """See QuotaClient."""
        try:
            response = await self._stub.Authenticate(
                quota_pb2.AuthenticateRequest(key_digest=key_digest), timeout=self._deadline_s
            )
        except (grpc.aio.AioRpcError, FarthingError) as error:
            raise _unreachable(error) from error
        if not response.HasField("principal"):
            self._hints.pop(key_digest, None)
            return None
        principal = _read_principal(response.principal)
        self._remember(key_digest, principal)
        return principal

    def principal_hint(self, key_digest: bytes) -> Principal | None:
        """See QuotaClient."""
        return self._hints.get(key_digest)

    async def close(self) -> None:
        """Fail what waits. The outbox and the channel are closed by whoever opened them."""
        await self._stream.close()
        for task in self._recoveries:
            task.cancel()
        await asyncio.gather(*self._recoveries, return_exceptions=True)

    def _open_stream(self) -> Any:
        # A call of an hour belongs to no request's trace, and is none of its own; its messages name their traces.
        unrecorded = TraceContext(new_trace_id(), new_span_id(), False)
        return self._stub.StreamReserve(
            timeout=_STREAM_S, metadata=outgoing_metadata(unrecorded)
        )

    def _take_answers(
        self,
        requests: Sequence[ReserveRequest],
        response: quota_pb2.StreamReserveResponse | quota_pb2.BatchReserveResponse,
    ) -> list[Reserved | Denied]:
        answers = [_read_answer(result) for result in response.results]
        for request, answer in zip(requests, answers, strict=False):
            if isinstance(answer, Reserved):
                self._remember(request.key_digest, answer.principal)
            elif answer.reason in (DenialReason.KEY_UNKNOWN, DenialReason.KEY_INACTIVE):
                self._hints.pop(request.key_digest, None)
        if self._doubts:
            self._resolve_doubts()
        return answers

    def _recover(self, lost: Sequence[_Waiting], loss: FarthingError) -> None:
        """The kept call is gone: a restart or a moved instance is soon over, so ask once more, by a call of its own."""
        left_s = min(one.deadline for one in lost) - asyncio.get_running_loop().time()
        if (
            not isinstance(loss, Unavailable)
            or loss.reason == "CLIENT_CLOSED"
            or left_s <= _RETRY_S
        ):
            self._fail(lost, loss)
            return
        waiting = [one for one in lost if not one.waiter.done()]
        self._doubt([one for one in lost if one.waiter.done()])
        for start in range(0, len(waiting), _BATCH_COUNT):
            asked = self._ask_again(waiting[start : start + _BATCH_COUNT], left_s)
            task = asyncio.ensure_future(asked)
            self._recoveries.add(task)
            task.add_done_callback(self._recoveries.discard)

    async def _ask_again(self, waiting: Sequence[_Waiting], left_s: float) -> None:
        requests = [one.item for one in waiting]
        try:
            await asyncio.sleep(_RETRY_S)
            response = await self._stub.BatchReserve(
                _encode_batch(requests),
                timeout=left_s - _RETRY_S,
                metadata=batch_metadata(requests[0].traceparent),
            )
            answers = self._take_answers(requests, response)
        except (grpc.aio.AioRpcError, FarthingError) as error:
            self._fail(waiting, error)
        except BaseException:
            self._fail(waiting, Unavailable("the client is closed", reason="CLIENT_CLOSED"))
            raise
        else:
            for one, answer in zip(waiting, answers, strict=True):
                if not one.waiter.done():
                    one.waiter.set_result(answer)
                else:
                    self._give_back(one.item, answer)

    def _fail(
        self, waiting: Sequence[_Waiting], error: grpc.aio.AioRpcError | FarthingError
    ) -> None:
        """Nobody asks for these holds again."""
        self._doubt(waiting)
        unreachable = _unreachable(error)
        for one in waiting:
            if not one.waiter.done():
                one.waiter.set_exception(unreachable)

    def _doubt(self, waiting: Sequence[_Waiting]) -> None:
        # What is asked for again is not among them: another answer in between would give it back before it is used.
        for one in waiting[: _DOUBT_COUNT - len(self._doubts)]:
            self._doubts[one.item.hold_id] = None

    def _resolve_doubts(self) -> None:
        """Give back what a failed call may have held, now that the service answers again."""
        try:
            for hold_id in list(self._doubts):
                self.settle(hold_id, 0, 0)
                del self._doubts[hold_id]
        except ResourceExhausted:
            _log.debug("the outbox is full; holds in doubt wait")

    def _give_back(self, request: ReserveRequest, answer: Reserved | Denied) -> None:
        if isinstance(answer, Reserved):
            self._doubts[request.hold_id] = None
            self._resolve_doubts()

    async def _deliver(self, entries: Sequence[Entry]) -> Mapping[int, str]:
        message = repeat_field_one(entry.payload for entry in entries)
        try:
            response: quota_pb2.BatchSettleResponse = await self._settle(
                message, timeout=_SETTLE_TIMEOUT_S
            )
        except (grpc.aio.AioRpcError, FarthingError) as error:
            raise _unreachable(error) from error
        refused = {}
        for entry, result in zip(entries, response.results, strict=True):
            if result.outcome in _FINAL:
                # Giving back a hold that was never made, or was given back before, is no loss.
                if quota_pb2.Settlement.FromString(entry.payload).amount_nano_usd > 0:
                    refused[entry.sequence] = _FINAL[result.outcome]
        return refused

    def _remember(self, key_digest: bytes, principal: Principal) -> None:
        self._hints[key_digest] = principal
        self._hints.move_to_end(key_digest)
        if len(self._hints) > _HINT_COUNT:
            self._hints.popitem(last=False)


def _check(request: ReserveRequest) -> None:
    """Refuse what the service would refuse: one bad reservation must not fail the batch it travels in."""
    if not 1 <= len(request.hold_id) <= 128:
        raise InvalidArgument("hold_id: use 1 to 128 characters", field="hold_id")
    if len(request.key_digest) != _DIGEST_BYTES:
        raise InvalidArgument("key_digest: send the SHA-256 of the secret", field="key_digest")
    if not 0 <= request.min_amount_nano_usd <= request.amount_nano_usd:
        raise InvalidArgument(
            f"amount_nano_usd {request.amount_nano_usd} and min_amount_nano_usd "
            f"{request.min_amount_nano_usd}: need 0 <= min <= amount",
            field="amount_nano_usd",
        )
    if request.token_count < 0:
        raise InvalidArgument("token_count cannot be negative", field="token_count")
    if not _MIN_TTL_MS <= request.ttl_ms <= _MAX_TTL_MS:
        raise InvalidArgument(
            f"ttl_ms is {request.ttl_ms}; use {_MIN_TTL_MS} to {_MAX_TTL_MS}", field="ttl_ms"
        )


def _read_answer(result: quota_pb2.ReserveResult) -> Reserved | Denied:
    principal = _read_principal(result.principal) if result.HasField("principal") else None
    if not result.HasField("denial") and principal is not None:
        return Reserved(result.granted_nano_usd, principal, result.expire_time.ToMilliseconds())
    name = quota_pb2.DenialReason.Name(result.denial.reason).removeprefix("DENIAL_REASON_")
    return Denied(
        DenialReason(name),
        result.denial.node,
        result.denial.message,
        result.denial.retry_after_ms,
        principal,
    )


def _read_principal(message: common_pb2.Principal) -> Principal:
    return Principal(
        message.key_id,
        message.organisation_id,
        message.cost_centre_id,
        message.team_id,
        message.default_policy,
        message.admin,
    )


def _unreachable(error: grpc.aio.AioRpcError | FarthingError) -> FarthingError:
    domain = decode_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
    if isinstance(domain, InvalidArgument):
        return domain
    return Unavailable(
        f"the quota service cannot be asked: {domain.message}; nothing is served without it",
        reason="QUOTA_UNREACHABLE",
        metadata={"cause": domain.reason},
        retry_after_ms=_RETRY_AFTER_MS,
    )


def _encode_stream(requests: Sequence[ReserveRequest]) -> quota_pb2.StreamReserveRequest:
    return quota_pb2.StreamReserveRequest(reservations=map(_encode_reservation, requests))


def _encode_batch(requests: Sequence[ReserveRequest]) -> quota_pb2.BatchReserveRequest:
    return quota_pb2.BatchReserveRequest(reservations=map(_encode_reservation, requests))


def _encode_reservation(request: ReserveRequest) -> quota_pb2.Reservation:
    return quota_pb2.Reservation(
        hold_id=request.hold_id,
        key_digest=request.key_digest,
        amount_nano_usd=request.amount_nano_usd,
        min_amount_nano_usd=request.min_amount_nano_usd,
        token_count=request.token_count,
        ttl_ms=request.ttl_ms,
        traceparent=request.traceparent,
    )
