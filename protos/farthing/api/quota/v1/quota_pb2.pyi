import datetime

from farthing.api.common.v1 import common_pb2 as _common_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DenialReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DENIAL_REASON_UNSPECIFIED: _ClassVar[DenialReason]
    DENIAL_REASON_KEY_UNKNOWN: _ClassVar[DenialReason]
    DENIAL_REASON_KEY_INACTIVE: _ClassVar[DenialReason]
    DENIAL_REASON_BUDGET: _ClassVar[DenialReason]
    DENIAL_REASON_REQUEST_RATE: _ClassVar[DenialReason]
    DENIAL_REASON_TOKEN_RATE: _ClassVar[DenialReason]

class SettleOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SETTLE_OUTCOME_UNSPECIFIED: _ClassVar[SettleOutcome]
    SETTLE_OUTCOME_SETTLED: _ClassVar[SettleOutcome]
    SETTLE_OUTCOME_DUPLICATE: _ClassVar[SettleOutcome]
    SETTLE_OUTCOME_CONFLICT: _ClassVar[SettleOutcome]
    SETTLE_OUTCOME_UNKNOWN: _ClassVar[SettleOutcome]
    SETTLE_OUTCOME_OVER_HOLD: _ClassVar[SettleOutcome]

class BudgetPeriod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUDGET_PERIOD_UNSPECIFIED: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_TOTAL: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_DAY: _ClassVar[BudgetPeriod]
    BUDGET_PERIOD_MONTH: _ClassVar[BudgetPeriod]
DENIAL_REASON_UNSPECIFIED: DenialReason
DENIAL_REASON_KEY_UNKNOWN: DenialReason
DENIAL_REASON_KEY_INACTIVE: DenialReason
DENIAL_REASON_BUDGET: DenialReason
DENIAL_REASON_REQUEST_RATE: DenialReason
DENIAL_REASON_TOKEN_RATE: DenialReason
SETTLE_OUTCOME_UNSPECIFIED: SettleOutcome
SETTLE_OUTCOME_SETTLED: SettleOutcome
SETTLE_OUTCOME_DUPLICATE: SettleOutcome
SETTLE_OUTCOME_CONFLICT: SettleOutcome
SETTLE_OUTCOME_UNKNOWN: SettleOutcome
SETTLE_OUTCOME_OVER_HOLD: SettleOutcome
BUDGET_PERIOD_UNSPECIFIED: BudgetPeriod
BUDGET_PERIOD_TOTAL: BudgetPeriod
BUDGET_PERIOD_DAY: BudgetPeriod
BUDGET_PERIOD_MONTH: BudgetPeriod

class BatchReserveRequest(_message.Message):
    __slots__ = ("reservations",)
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[Reservation]
    def __init__(self, reservations: _Optional[_Iterable[_Union[Reservation, _Mapping]]] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("hold_id", "key_digest", "amount_nano_usd", "min_amount_nano_usd", "token_count", "ttl_ms", "traceparent")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    MIN_AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    key_digest: bytes
    amount_nano_usd: int
    min_amount_nano_usd: int
    token_count: int
    ttl_ms: int
    traceparent: str
    def __init__(self, hold_id: _Optional[str] = ..., key_digest: _Optional[bytes] = ..., amount_nano_usd: _Optional[int] = ..., min_amount_nano_usd: _Optional[int] = ..., token_count: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class BatchReserveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReserveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ReserveResult, _Mapping]]] = ...) -> None: ...

class StreamReserveRequest(_message.Message):
    __slots__ = ("reservations",)
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[Reservation]
    def __init__(self, reservations: _Optional[_Iterable[_Union[Reservation, _Mapping]]] = ...) -> None: ...

class StreamReserveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ReserveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ReserveResult, _Mapping]]] = ...) -> None: ...

class ReserveResult(_message.Message):
    __slots__ = ("granted_nano_usd", "principal", "denial", "expire_time")
    GRANTED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    granted_nano_usd: int
    principal: _common_pb2.Principal
    denial: Denial
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, granted_nano_usd: _Optional[int] = ..., principal: _Optional[_Union[_common_pb2.Principal, _Mapping]] = ..., denial: _Optional[_Union[Denial, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Denial(_message.Message):
    __slots__ = ("reason", "node", "message", "retry_after_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    reason: DenialReason
    node: str
    message: str
    retry_after_ms: int
    def __init__(self, reason: _Optional[_Union[DenialReason, str]] = ..., node: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class BatchSettleRequest(_message.Message):
    __slots__ = ("settlements",)
    SETTLEMENTS_FIELD_NUMBER: _ClassVar[int]
    settlements: _containers.RepeatedCompositeFieldContainer[Settlement]
    def __init__(self, settlements: _Optional[_Iterable[_Union[Settlement, _Mapping]]] = ...) -> None: ...

class Settlement(_message.Message):
    __slots__ = ("hold_id", "amount_nano_usd", "token_count")
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    hold_id: str
    amount_nano_usd: int
    token_count: int
    def __init__(self, hold_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., token_count: _Optional[int] = ...) -> None: ...

class BatchSettleResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SettleResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SettleResult, _Mapping]]] = ...) -> None: ...

class SettleResult(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: SettleOutcome
    def __init__(self, outcome: _Optional[_Union[SettleOutcome, str]] = ...) -> None: ...

class AuthenticateRequest(_message.Message):
    __slots__ = ("key_digest",)
    KEY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    key_digest: bytes
    def __init__(self, key_digest: _Optional[bytes] = ...) -> None: ...

class AuthenticateResponse(_message.Message):
    __slots__ = ("principal",)
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    principal: _common_pb2.Principal
    def __init__(self, principal: _Optional[_Union[_common_pb2.Principal, _Mapping]] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("name", "organisation_id", "cost_centre_id", "team_id", "default_policy", "admin", "expire_time", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_ID_FIELD_NUMBER: _ClassVar[int]
    COST_CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_POLICY_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    default_policy: str
    admin: bool
    expire_time: _timestamp_pb2.Timestamp
    limits: Limits
    def __init__(self, name: _Optional[str] = ..., organisation_id: _Optional[str] = ..., cost_centre_id: _Optional[str] = ..., team_id: _Optional[str] = ..., default_policy: _Optional[str] = ..., admin: bool = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class CreateKeyResponse(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: ApiKey
    secret: str
    def __init__(self, key: _Optional[_Union[ApiKey, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class ApiKey(_message.Message):
    __slots__ = ("key_id", "name", "secret_prefix", "principal", "create_time", "expire_time", "revoke_time")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SECRET_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    name: str
    secret_prefix: str
    principal: _common_pb2.Principal
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[str] = ..., name: _Optional[str] = ..., secret_prefix: _Optional[str] = ..., principal: _Optional[_Union[_common_pb2.Principal, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("organisation_id",)
    ORGANISATION_ID_FIELD_NUMBER: _ClassVar[int]
    organisation_id: str
    def __init__(self, organisation_id: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[ApiKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[ApiKey, _Mapping]]] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("key_id",)
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    def __init__(self, key_id: _Optional[str] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: ApiKey
    def __init__(self, key: _Optional[_Union[ApiKey, _Mapping]] = ...) -> None: ...

class SetBudgetRequest(_message.Message):
    __slots__ = ("node", "limits")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    node: str
    limits: Limits
    def __init__(self, node: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class SetBudgetResponse(_message.Message):
    __slots__ = ("budget",)
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    budget: Budget
    def __init__(self, budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("budget_nano_usd", "period", "requests_per_minute", "tokens_per_minute")
    BUDGET_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    budget_nano_usd: int
    period: BudgetPeriod
    requests_per_minute: int
    tokens_per_minute: int
    def __init__(self, budget_nano_usd: _Optional[int] = ..., period: _Optional[_Union[BudgetPeriod, str]] = ..., requests_per_minute: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ...) -> None: ...

class ListBudgetsRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ListBudgetsResponse(_message.Message):
    __slots__ = ("budgets",)
    BUDGETS_FIELD_NUMBER: _ClassVar[int]
    budgets: _containers.RepeatedCompositeFieldContainer[Budget]
    def __init__(self, budgets: _Optional[_Iterable[_Union[Budget, _Mapping]]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("node", "limits", "spent_nano_usd", "held_nano_usd", "remaining_nano_usd", "period_start_time", "unfunded_nano_usd")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SPENT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    HELD_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REMAINING_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_TIME_FIELD_NUMBER: _ClassVar[int]
    UNFUNDED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    node: str
    limits: Limits
    spent_nano_usd: int
    held_nano_usd: int
    remaining_nano_usd: int
    period_start_time: _timestamp_pb2.Timestamp
    unfunded_nano_usd: int
    def __init__(self, node: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., spent_nano_usd: _Optional[int] = ..., held_nano_usd: _Optional[int] = ..., remaining_nano_usd: _Optional[int] = ..., period_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., unfunded_nano_usd: _Optional[int] = ...) -> None: ...
