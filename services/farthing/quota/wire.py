"""Quota's values as quota.v1 messages and back, with every field checked on the way in."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.common.v1 import common_pb2
from farthing.api.quota.v1 import quota_pb2
from farthing.kit.errors import InvalidArgument
from farthing.quota.core.holds import Denial, End, Granted, Wish
from farthing.quota.core.keys import ApiKey, KeyWish, Principal
from farthing.quota.core.names import require_id
from farthing.quota.core.nodes import Limits, Node, Period, period_start_ms, remaining, spent

MAX_BATCH_COUNT = 512
DIGEST_BYTES = 32
_MAX_HOLD_ID_CHARS = 128
_MIN_TTL_MS, _MAX_TTL_MS = 1_000, 3_600_000
_MAX_NAME_CHARS = 64
Reservations = quota_pb2.BatchReserveRequest | quota_pb2.StreamReserveRequest
Results = quota_pb2.BatchReserveResponse | quota_pb2.StreamReserveResponse


def read_wishes(request: Reservations) -> list[Wish]:
    """Check and decode reservations. InvalidArgument naming the field and its place."""
    _require_count(len(request.reservations), "reservations")
    return [
        _read_wish(item, f"reservations[{place}]")
        for place, item in enumerate(request.reservations)
    ]


def read_ends(request: quota_pb2.BatchSettleRequest) -> list[End]:
    """Check and decode settlements. InvalidArgument naming the field and its place."""
    _require_count(len(request.settlements), "settlements")
    ends = []
    for place, item in enumerate(request.settlements):
        where = f"settlements[{place}]"
        _require_hold_id(item.hold_id, where)
        _require_natural(item.amount_nano_usd, f"{where}.amount_nano_usd")
        _require_natural(item.token_count, f"{where}.token_count")
        ends.append(End(item.hold_id, item.amount_nano_usd, item.token_count))
    return ends


def read_digest(digest: bytes, field: str = "key_digest") -> bytes:
    """Check a key's digest."""
    if len(digest) != DIGEST_BYTES:
        raise InvalidArgument(
            f"{field} has {len(digest)} bytes; send the SHA-256 of the key's secret, 32 bytes",
            field=field,
        )
    return digest


def read_key_wish(request: quota_pb2.CreateKeyRequest, *, key_id: str, now_ms: int) -> KeyWish:
    """Check and decode the key to make, with the defaults of quota.proto."""
    if not 1 <= len(request.name) <= _MAX_NAME_CHARS:
        raise InvalidArgument(
            f"name has {len(request.name)} characters; use 1 to {_MAX_NAME_CHARS}", field="name"
        )
    expire_ms = None
    if request.HasField("expire_time"):
        expire_ms = request.expire_time.ToMilliseconds()
        if expire_ms <= now_ms:
            raise InvalidArgument(
                "expire_time is past; leave it out for a key that does not expire",
                field="expire_time",
            )
    return KeyWish(
        key_id=key_id,
        name=request.name,
        organisation_id=require_id(request.organisation_id, field="organisation_id"),
        cost_centre_id=require_id(request.cost_centre_id or "default", field="cost_centre_id"),
        team_id=require_id(request.team_id or "default", field="team_id"),
        default_policy=require_id(request.default_policy or "balanced", field="default_policy"),
        admin=request.admin,
        expire_ms=expire_ms,
    )


def read_limits(limits: quota_pb2.Limits) -> Limits:
    """Check and decode limits."""
    if limits.period not in quota_pb2.BudgetPeriod.values():
        raise InvalidArgument(
            f"limits.period {limits.period} is unknown; use TOTAL, DAY or MONTH",
            field="limits.period",
        )
    values: dict[str, int | None] = {}
    for name in ("budget_nano_usd", "requests_per_minute", "tokens_per_minute"):
        values[name] = None
        if limits.HasField(name):
            values[name] = _require_natural(getattr(limits, name), f"limits.{name}")
    return Limits(
        budget_nano_usd=values["budget_nano_usd"],
        period=Period(limits.period or Period.TOTAL),
        requests_per_minute=values["requests_per_minute"],
        tokens_per_minute=values["tokens_per_minute"],
    )


def write_answer(answer: Granted | Denial, result: quota_pb2.ReserveResult) -> None:
    """Encode the answer to one reservation."""
    if answer.principal is not None:
        write_principal(answer.principal, result.principal)
    if isinstance(answer, Granted):
        result.granted_nano_usd = answer.granted_nano_usd
        _write_time(answer.expire_ms, result.expire_time)
        return
    denial = result.denial
    denial.reason = answer.reason  # type: ignore[assignment]
    denial.node = answer.node
    denial.message = answer.message
    denial.retry_after_ms = answer.retry_after_ms


def write_principal(principal: Principal, message: common_pb2.Principal) -> None:
    """Encode a principal."""
    message.key_id = principal.key_id
    message.organisation_id = principal.organisation_id
    message.cost_centre_id = principal.cost_centre_id
    message.team_id = principal.team_id
    message.default_policy = principal.default_policy
    message.admin = principal.admin


def write_key(key: ApiKey, message: quota_pb2.ApiKey) -> None:
    """Encode a key."""
    message.key_id = key.key_id
    message.name = key.name
    message.secret_prefix = key.secret_prefix
    write_principal(key.principal, message.principal)
    _write_time(key.create_ms, message.create_time)
    if key.expire_ms is not None:
        _write_time(key.expire_ms, message.expire_time)
    if key.revoke_ms is not None:
        _write_time(key.revoke_ms, message.revoke_time)


def write_budget(node: Node, message: quota_pb2.Budget) -> None:
    """Encode a node that has been rolled to now."""
    limits = node.limits
    message.node = node.name
    message.limits.period = limits.period  # type: ignore[assignment]
    if limits.budget_nano_usd is not None:
        message.limits.budget_nano_usd = limits.budget_nano_usd
    if limits.requests_per_minute is not None:
        message.limits.requests_per_minute = limits.requests_per_minute
    if limits.tokens_per_minute is not None:
        message.limits.tokens_per_minute = limits.tokens_per_minute
    message.spent_nano_usd = spent(node)
    message.held_nano_usd = node.held_nano_usd
    message.unfunded_nano_usd = node.unfunded_nano_usd
    if (left := remaining(node)) is not None:
        message.remaining_nano_usd = left
    _write_time(period_start_ms(node), message.period_start_time)


def _read_wish(item: quota_pb2.Reservation, where: str) -> Wish:
    _require_hold_id(item.hold_id, where)
    read_digest(item.key_digest, f"{where}.key_digest")
    _require_natural(item.min_amount_nano_usd, f"{where}.min_amount_nano_usd")
    _require_natural(item.token_count, f"{where}.token_count")
    if item.amount_nano_usd < item.min_amount_nano_usd:
        raise InvalidArgument(
            f"{where}.amount_nano_usd {item.amount_nano_usd} is less than min_amount_nano_usd "
            f"{item.min_amount_nano_usd}",
            field=f"{where}.amount_nano_usd",
        )
    if not _MIN_TTL_MS <= item.ttl_ms <= _MAX_TTL_MS:
        raise InvalidArgument(
            f"{where}.ttl_ms is {item.ttl_ms}; use {_MIN_TTL_MS} to {_MAX_TTL_MS}",
            field=f"{where}.ttl_ms",
        )
    return Wish(
        item.hold_id,
        item.key_digest,
        item.amount_nano_usd,
        item.min_amount_nano_usd,
        item.token_count,
        item.ttl_ms,
    )


def _require_count(count: int, field: str) -> None:
    if not 1 <= count <= MAX_BATCH_COUNT:
        raise InvalidArgument(f"{count} {field}; send 1 to {MAX_BATCH_COUNT}", field=field)


def _require_hold_id(hold_id: str, where: str) -> None:
    if not 1 <= len(hold_id) <= _MAX_HOLD_ID_CHARS:
        raise InvalidArgument(
            f"{where}.hold_id has {len(hold_id)} characters; use 1 to {_MAX_HOLD_ID_CHARS}",
            field=f"{where}.hold_id",
        )


def _require_natural(value: int, field: str) -> int:
    if value < 0:
        raise InvalidArgument(f"{field} is {value}; it cannot be negative", field=field)
    return value


def _write_time(time_ms: int, message: Timestamp) -> None:
    message.seconds, milliseconds = divmod(time_ms, 1000)
    message.nanos = milliseconds * 1_000_000
