from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CostKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COST_KIND_UNSPECIFIED: _ClassVar[CostKind]
    COST_KIND_COMPUTE: _ClassVar[CostKind]
    COST_KIND_ENERGY: _ClassVar[CostKind]
    COST_KIND_EGRESS: _ClassVar[CostKind]
    COST_KIND_TOKENS: _ClassVar[CostKind]
    COST_KIND_CACHE: _ClassVar[CostKind]

class CostUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COST_UNIT_UNSPECIFIED: _ClassVar[CostUnit]
    COST_UNIT_US: _ClassVar[CostUnit]
    COST_UNIT_UJ: _ClassVar[CostUnit]
    COST_UNIT_BYTES: _ClassVar[CostUnit]
    COST_UNIT_TOKENS: _ClassVar[CostUnit]
    COST_UNIT_COUNT: _ClassVar[CostUnit]

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_EDGE: _ClassVar[Tier]
    TIER_CLOUD: _ClassVar[Tier]
    TIER_CACHE: _ClassVar[Tier]

class PrivacyClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIVACY_CLASS_UNSPECIFIED: _ClassVar[PrivacyClass]
    PRIVACY_CLASS_EDGE_ONLY: _ClassVar[PrivacyClass]
    PRIVACY_CLASS_REGION: _ClassVar[PrivacyClass]
    PRIVACY_CLASS_ANY: _ClassVar[PrivacyClass]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_STANDARD: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_BUDGET: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
    FINISH_REASON_ERROR: _ClassVar[FinishReason]
COST_KIND_UNSPECIFIED: CostKind
COST_KIND_COMPUTE: CostKind
COST_KIND_ENERGY: CostKind
COST_KIND_EGRESS: CostKind
COST_KIND_TOKENS: CostKind
COST_KIND_CACHE: CostKind
COST_UNIT_UNSPECIFIED: CostUnit
COST_UNIT_US: CostUnit
COST_UNIT_UJ: CostUnit
COST_UNIT_BYTES: CostUnit
COST_UNIT_TOKENS: CostUnit
COST_UNIT_COUNT: CostUnit
TIER_UNSPECIFIED: Tier
TIER_EDGE: Tier
TIER_CLOUD: Tier
TIER_CACHE: Tier
PRIVACY_CLASS_UNSPECIFIED: PrivacyClass
PRIVACY_CLASS_EDGE_ONLY: PrivacyClass
PRIVACY_CLASS_REGION: PrivacyClass
PRIVACY_CLASS_ANY: PrivacyClass
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_STANDARD: Priority
PRIORITY_BATCH: Priority
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_BUDGET: FinishReason
FINISH_REASON_CANCELLED: FinishReason
FINISH_REASON_ERROR: FinishReason

class Principal(_message.Message):
    __slots__ = ("key_id", "organisation_id", "cost_centre_id", "team_id", "default_policy", "admin")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ORGANISATION_ID_FIELD_NUMBER: _ClassVar[int]
    COST_CENTRE_ID_FIELD_NUMBER: _ClassVar[int]
    TEAM_ID_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_POLICY_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    organisation_id: str
    cost_centre_id: str
    team_id: str
    default_policy: str
    admin: bool
    def __init__(self, key_id: _Optional[str] = ..., organisation_id: _Optional[str] = ..., cost_centre_id: _Optional[str] = ..., team_id: _Optional[str] = ..., default_policy: _Optional[str] = ..., admin: bool = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_token_count", "output_token_count", "cached_input_token_count", "reasoning_token_count", "queue_us", "prefill_us", "decode_us", "compute_us", "request_bytes", "response_bytes", "energy_uj", "energy_estimated", "peak_kv_bytes")
    INPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_INPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    PREFILL_US_FIELD_NUMBER: _ClassVar[int]
    DECODE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENERGY_UJ_FIELD_NUMBER: _ClassVar[int]
    ENERGY_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    PEAK_KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    input_token_count: int
    output_token_count: int
    cached_input_token_count: int
    reasoning_token_count: int
    queue_us: int
    prefill_us: int
    decode_us: int
    compute_us: int
    request_bytes: int
    response_bytes: int
    energy_uj: int
    energy_estimated: bool
    peak_kv_bytes: int
    def __init__(self, input_token_count: _Optional[int] = ..., output_token_count: _Optional[int] = ..., cached_input_token_count: _Optional[int] = ..., reasoning_token_count: _Optional[int] = ..., queue_us: _Optional[int] = ..., prefill_us: _Optional[int] = ..., decode_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ..., energy_uj: _Optional[int] = ..., energy_estimated: bool = ..., peak_kv_bytes: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "reason", "message", "metadata", "retry_after_ms")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class CostLine(_message.Message):
    __slots__ = ("kind", "amount_nano_usd", "quantity", "unit", "estimated")
    KIND_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    kind: CostKind
    amount_nano_usd: int
    quantity: int
    unit: CostUnit
    estimated: bool
    def __init__(self, kind: _Optional[_Union[CostKind, str]] = ..., amount_nano_usd: _Optional[int] = ..., quantity: _Optional[int] = ..., unit: _Optional[_Union[CostUnit, str]] = ..., estimated: bool = ...) -> None: ...
