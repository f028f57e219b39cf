"""The strict quota client: every hold is asked of the service, in natural micro-batches; settlements go by outbox."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.clients.batching import MicroBatcher
from farthing.clients.outbox import Entry, Outbox
from farthing.clients.quota import DenialReason, Denied, Principal, Reserved, ReserveRequest
from farthing.clients.wire import as_it_is, repeat_field_one
from farthing.kit.errors import FarthingError, InvalidArgument, ResourceExhausted, Unavailable
from farthing.kit.rpc.channel import batch_metadata, decode_error

SETTLE_KIND = "quota.settle"
_HINT_COUNT = 4_096
_DOUBT_COUNT = 4_096
_BATCH_COUNT = 512
_RETRY_AFTER_MS = 1_000
_RETRY_S = 0.02
_SETTLE_TIMEOUT_S = 10.0
_DIGEST_BYTES = 32
_MIN_TTL_MS, _MAX_TTL_MS = 1_000, 3_600_000
_FINAL = {
    quota_pb2.SETTLE_OUTCOME_CONFLICT: "settled before with another amount",
    quota_pb2.SETTLE_OUTCOME_UNKNOWN: "quota knows no such hold",
    quota_pb2.SETTLE_OUTCOME_OVER_HOLD: "more than was held",
}
_log = logging.getLogger(__name__)


class StrictQuotaClient:
    """Implements QuotaClient against the quota service behind `channel`.

    Fails closed: a call without an answer in `deadline_ms` is Unavailable (QUOTA_UNREACHABLE); a request waits for the
    call before its own at most, so for twice that. Takes charge of
    outbox entries of kind "quota.settle", those left by an earlier process too.
    """

    def __init__(
        self, channel: grpc.aio.Channel, outbox: Outbox, *, deadline_ms: int = 1_000
    ) -> None:
        self._stub = quota_pb2_grpc.QuotaServiceStub(channel)
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
        self._batcher = MicroBatcher(
            self._reserve, max_batch_count=_BATCH_COUNT, on_abandoned=self._give_back
        )
        outbox.attach(SETTLE_KIND, self._deliver)

    async def reserve(self, request: ReserveRequest) -> Reserved | Denied:
        """See QuotaClient. InvalidArgument before anything leaves.

        After QUOTA_UNREACHABLE ask again under a new hold id: what the old one may hold is given back.
        """
        _check(request)
        answer = await self._batcher.submit(request)
        if isinstance(answer, Reserved):
            self._remember(request.key_digest, answer.principal)
        elif answer.reason in (DenialReason.KEY_UNKNOWN, DenialReason.KEY_INACTIVE):
            self._hints.pop(request.key_digest, None)
        return answer

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
            raise _translate(error) from error
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
        await self._batcher.close()

    async def _reserve(self, requests: Sequence[ReserveRequest]) -> list[Reserved | Denied]:
        message = quota_pb2.BatchReserveRequest()
        for item in requests:
            message.reservations.add(
                hold_id=item.hold_id,
                key_digest=item.key_digest,
                amount_nano_usd=item.amount_nano_usd,
                min_amount_nano_usd=item.min_amount_nano_usd,
                token_count=item.token_count,
                ttl_ms=item.ttl_ms,
                traceparent=item.traceparent,
            )
        try:
            response = await self._call(message)
        except BaseException:
            for item in requests[: _DOUBT_COUNT - len(self._doubts)]:
                self._doubts[item.hold_id] = None
            raise
        for item in requests:
            self._doubts.pop(item.hold_id, None)
        self._resolve_doubts()
        return [_read_answer(result) for result in response.results]

    async def _call(
        self, message: quota_pb2.BatchReserveRequest
    ) -> quota_pb2.BatchReserveResponse:
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        metadata = batch_metadata(message.reservations[0].traceparent)
        try:
            return await self._stub.BatchReserve(
                message, timeout=self._deadline_s, metadata=metadata
            )
        except (grpc.aio.AioRpcError, FarthingError) as error:
            first = _translate(error)
        left_s = deadline - asyncio.get_running_loop().time() - _RETRY_S
        if not isinstance(first, Unavailable) or left_s <= 0:
            raise first
        # Once more: the call is idempotent, and a restart or a moved instance is soon over.
        await asyncio.sleep(_RETRY_S)
        try:
            return await self._stub.BatchReserve(message, timeout=left_s, metadata=metadata)
        except (grpc.aio.AioRpcError, FarthingError) as error:
            raise _translate(error) from error

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
            raise _translate(error) from error
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


def _translate(error: grpc.aio.AioRpcError | FarthingError) -> FarthingError:
    domain = decode_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
    if isinstance(domain, InvalidArgument):
        return domain
    return _unreachable(domain.message, cause=domain.reason)


def _unreachable(why: str, *, cause: str = "DEADLINE") -> FarthingError:
    return Unavailable(
        f"the quota service cannot be asked: {why}; nothing is served without it",
        reason="QUOTA_UNREACHABLE",
        metadata={"cause": cause},
        retry_after_ms=_RETRY_AFTER_MS,
    )
