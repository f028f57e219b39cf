from farthing.api.common.v1 import common_pb2 as _common_pb2
from farthing.api.inference.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RejectReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECT_REASON_UNSPECIFIED: _ClassVar[RejectReason]
    REJECT_REASON_COST: _ClassVar[RejectReason]
    REJECT_REASON_RESIDENCY: _ClassVar[RejectReason]
    REJECT_REASON_PRIVACY: _ClassVar[RejectReason]
    REJECT_REASON_CONTEXT_LENGTH: _ClassVar[RejectReason]
    REJECT_REASON_CAPABILITY: _ClassVar[RejectReason]
    REJECT_REASON_LATENCY: _ClassVar[RejectReason]
    REJECT_REASON_PRICE_CEILING: _ClassVar[RejectReason]
    REJECT_REASON_QUALITY: _ClassVar[RejectReason]
    REJECT_REASON_BUDGET: _ClassVar[RejectReason]
    REJECT_REASON_UNPRICED: _ClassVar[RejectReason]
    REJECT_REASON_UNHEALTHY: _ClassVar[RejectReason]
    REJECT_REASON_MODEL: _ClassVar[RejectReason]
    REJECT_REASON_FAILED: _ClassVar[RejectReason]

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_OFF: _ClassVar[CacheMode]
    CACHE_MODE_READ: _ClassVar[CacheMode]
    CACHE_MODE_READ_WRITE: _ClassVar[CacheMode]

class CacheOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_OUTCOME_UNSPECIFIED: _ClassVar[CacheOutcome]
    CACHE_OUTCOME_MISS: _ClassVar[CacheOutcome]
    CACHE_OUTCOME_HIT_LOCAL: _ClassVar[CacheOutcome]
    CACHE_OUTCOME_HIT_SHARED: _ClassVar[CacheOutcome]

class InstanceState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INSTANCE_STATE_UNSPECIFIED: _ClassVar[InstanceState]
    INSTANCE_STATE_READY: _ClassVar[InstanceState]
    INSTANCE_STATE_SUSPECT: _ClassVar[InstanceState]
    INSTANCE_STATE_EJECTED: _ClassVar[InstanceState]
    INSTANCE_STATE_CONNECTING: _ClassVar[InstanceState]
REJECT_REASON_UNSPECIFIED: RejectReason
REJECT_REASON_COST: RejectReason
REJECT_REASON_RESIDENCY: RejectReason
REJECT_REASON_PRIVACY: RejectReason
REJECT_REASON_CONTEXT_LENGTH: RejectReason
REJECT_REASON_CAPABILITY: RejectReason
REJECT_REASON_LATENCY: RejectReason
REJECT_REASON_PRICE_CEILING: RejectReason
REJECT_REASON_QUALITY: RejectReason
REJECT_REASON_BUDGET: RejectReason
REJECT_REASON_UNPRICED: RejectReason
REJECT_REASON_UNHEALTHY: RejectReason
REJECT_REASON_MODEL: RejectReason
REJECT_REASON_FAILED: RejectReason
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_OFF: CacheMode
CACHE_MODE_READ: CacheMode
CACHE_MODE_READ_WRITE: CacheMode
CACHE_OUTCOME_UNSPECIFIED: CacheOutcome
CACHE_OUTCOME_MISS: CacheOutcome
CACHE_OUTCOME_HIT_LOCAL: CacheOutcome
CACHE_OUTCOME_HIT_SHARED: CacheOutcome
INSTANCE_STATE_UNSPECIFIED: InstanceState
INSTANCE_STATE_READY: InstanceState
INSTANCE_STATE_SUSPECT: InstanceState
INSTANCE_STATE_EJECTED: InstanceState
INSTANCE_STATE_CONNECTING: InstanceState

class GenerateRequest(_message.Message):
    __slots__ = ("request_id", "model", "input", "constraints", "conversation_id", "single_use")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    SINGLE_USE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model: str
    input: _inference_pb2.GenerationInput
    constraints: Constraints
    conversation_id: str
    single_use: bool
    def __init__(self, request_id: _Optional[str] = ..., model: _Optional[str] = ..., input: _Optional[_Union[_inference_pb2.GenerationInput, _Mapping]] = ..., constraints: _Optional[_Union[Constraints, _Mapping]] = ..., conversation_id: _Optional[str] = ..., single_use: bool = ...) -> None: ...

class Constraints(_message.Message):
    __slots__ = ("max_cost_nano_usd", "max_first_token_ms", "max_total_ms", "min_quality_ratio", "residency", "privacy_class", "priority", "task", "policy", "cache_mode")
    MAX_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    MAX_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    MIN_QUALITY_RATIO_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    PRIVACY_CLASS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    max_cost_nano_usd: int
    max_first_token_ms: int
    max_total_ms: int
    min_quality_ratio: float
    residency: _containers.RepeatedScalarFieldContainer[str]
    privacy_class: _common_pb2.PrivacyClass
    priority: _common_pb2.Priority
    task: str
    policy: str
    cache_mode: CacheMode
    def __init__(self, max_cost_nano_usd: _Optional[int] = ..., max_first_token_ms: _Optional[int] = ..., max_total_ms: _Optional[int] = ..., min_quality_ratio: _Optional[float] = ..., residency: _Optional[_Iterable[str]] = ..., privacy_class: _Optional[_Union[_common_pb2.PrivacyClass, str]] = ..., priority: _Optional[_Union[_common_pb2.Priority, str]] = ..., task: _Optional[str] = ..., policy: _Optional[str] = ..., cache_mode: _Optional[_Union[CacheMode, str]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("decision", "delta", "result")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    delta: _inference_pb2.Delta
    result: Result
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., delta: _Optional[_Union[_inference_pb2.Delta, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ...) -> None: ...

class CompleteRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: GenerateRequest
    def __init__(self, request: _Optional[_Union[GenerateRequest, _Mapping]] = ...) -> None: ...

class CompleteResponse(_message.Message):
    __slots__ = ("text", "logprobs", "decision", "result")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[_inference_pb2.TokenLogprob]
    decision: Decision
    result: Result
    def __init__(self, text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[_inference_pb2.TokenLogprob, _Mapping]]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: GenerateRequest
    def __init__(self, request: _Optional[_Union[GenerateRequest, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("decision",)
    DECISION_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("decision_id", "chosen", "rejected", "policy", "price_version", "reason", "hold_nano_usd")
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HOLD_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    decision_id: str
    chosen: Candidate
    rejected: _containers.RepeatedCompositeFieldContainer[Candidate]
    policy: str
    price_version: str
    reason: str
    hold_nano_usd: int
    def __init__(self, decision_id: _Optional[str] = ..., chosen: _Optional[_Union[Candidate, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., policy: _Optional[str] = ..., price_version: _Optional[str] = ..., reason: _Optional[str] = ..., hold_nano_usd: _Optional[int] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("instance_id", "model", "tier", "region", "cost_lines", "estimated_nano_usd", "worst_case_nano_usd", "first_token_ms", "total_ms", "quality_ratio", "objective_nano_usd", "reject_reason", "reason")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    COST_LINES_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    WORST_CASE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    QUALITY_RATIO_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REJECT_REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    model: str
    tier: _common_pb2.Tier
    region: str
    cost_lines: _containers.RepeatedCompositeFieldContainer[_common_pb2.CostLine]
    estimated_nano_usd: int
    worst_case_nano_usd: int
    first_token_ms: int
    total_ms: int
    quality_ratio: float
    objective_nano_usd: int
    reject_reason: RejectReason
    reason: str
    def __init__(self, instance_id: _Optional[str] = ..., model: _Optional[str] = ..., tier: _Optional[_Union[_common_pb2.Tier, str]] = ..., region: _Optional[str] = ..., cost_lines: _Optional[_Iterable[_Union[_common_pb2.CostLine, _Mapping]]] = ..., estimated_nano_usd: _Optional[int] = ..., worst_case_nano_usd: _Optional[int] = ..., first_token_ms: _Optional[int] = ..., total_ms: _Optional[int] = ..., quality_ratio: _Optional[float] = ..., objective_nano_usd: _Optional[int] = ..., reject_reason: _Optional[_Union[RejectReason, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("request_id", "finish_reason", "usage", "cost_lines", "total_nano_usd", "decision_id", "trace_id", "latency_ms", "first_token_ms", "cache_outcome", "attempt_count")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    CACHE_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    finish_reason: _common_pb2.FinishReason
    usage: _common_pb2.Usage
    cost_lines: _containers.RepeatedCompositeFieldContainer[_common_pb2.CostLine]
    total_nano_usd: int
    decision_id: str
    trace_id: str
    latency_ms: int
    first_token_ms: int
    cache_outcome: CacheOutcome
    attempt_count: int
    def __init__(self, request_id: _Optional[str] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., cost_lines: _Optional[_Iterable[_Union[_common_pb2.CostLine, _Mapping]]] = ..., total_nano_usd: _Optional[int] = ..., decision_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., latency_ms: _Optional[int] = ..., first_token_ms: _Optional[int] = ..., cache_outcome: _Optional[_Union[CacheOutcome, str]] = ..., attempt_count: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[RoutableModel]
    def __init__(self, models: _Optional[_Iterable[_Union[RoutableModel, _Mapping]]] = ...) -> None: ...

class RoutableModel(_message.Message):
    __slots__ = ("info", "regions", "instance_count")
    INFO_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    info: _inference_pb2.ModelInfo
    regions: _containers.RepeatedScalarFieldContainer[str]
    instance_count: int
    def __init__(self, info: _Optional[_Union[_inference_pb2.ModelInfo, _Mapping]] = ..., regions: _Optional[_Iterable[str]] = ..., instance_count: _Optional[int] = ...) -> None: ...

class ListInstancesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListInstancesResponse(_message.Message):
    __slots__ = ("instances", "view_age_ms")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    VIEW_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatus]
    view_age_ms: int
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceStatus, _Mapping]]] = ..., view_age_ms: _Optional[int] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("instance_id", "address", "tier", "region", "models", "load", "rtt_us", "state", "in_flight_count")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    RTT_US_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    address: str
    tier: _common_pb2.Tier
    region: str
    models: _containers.RepeatedScalarFieldContainer[str]
    load: _inference_pb2.LoadReport
    rtt_us: int
    state: InstanceState
    in_flight_count: int
    def __init__(self, instance_id: _Optional[str] = ..., address: _Optional[str] = ..., tier: _Optional[_Union[_common_pb2.Tier, str]] = ..., region: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., load: _Optional[_Union[_inference_pb2.LoadReport, _Mapping]] = ..., rtt_us: _Optional[int] = ..., state: _Optional[_Union[InstanceState, str]] = ..., in_flight_count: _Optional[int] = ...) -> None: ...
