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

class SpendDimension(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPEND_DIMENSION_UNSPECIFIED: _ClassVar[SpendDimension]
    SPEND_DIMENSION_ORGANISATION: _ClassVar[SpendDimension]
    SPEND_DIMENSION_COST_CENTRE: _ClassVar[SpendDimension]
    SPEND_DIMENSION_TEAM: _ClassVar[SpendDimension]
    SPEND_DIMENSION_KEY: _ClassVar[SpendDimension]
    SPEND_DIMENSION_MODEL: _ClassVar[SpendDimension]
    SPEND_DIMENSION_REGION: _ClassVar[SpendDimension]
    SPEND_DIMENSION_SERVICE: _ClassVar[SpendDimension]
    SPEND_DIMENSION_TIER: _ClassVar[SpendDimension]
    SPEND_DIMENSION_TRACE: _ClassVar[SpendDimension]
    SPEND_DIMENSION_TASK: _ClassVar[SpendDimension]
    SPEND_DIMENSION_REQUEST: _ClassVar[SpendDimension]
    SPEND_DIMENSION_HOUR: _ClassVar[SpendDimension]
    SPEND_DIMENSION_DAY: _ClassVar[SpendDimension]

class RecordOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_OUTCOME_UNSPECIFIED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_RECORDED: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_DUPLICATE: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_CONFLICT: _ClassVar[RecordOutcome]
    RECORD_OUTCOME_INVALID: _ClassVar[RecordOutcome]

class Waste(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WASTE_UNSPECIFIED: _ClassVar[Waste]
    WASTE_CANCELLED: _ClassVar[Waste]
    WASTE_FAILED: _ClassVar[Waste]
    WASTE_HEDGED: _ClassVar[Waste]
    WASTE_ESCALATED: _ClassVar[Waste]
    WASTE_SHADOW: _ClassVar[Waste]
SPEND_DIMENSION_UNSPECIFIED: SpendDimension
SPEND_DIMENSION_ORGANISATION: SpendDimension
SPEND_DIMENSION_COST_CENTRE: SpendDimension
SPEND_DIMENSION_TEAM: SpendDimension
SPEND_DIMENSION_KEY: SpendDimension
SPEND_DIMENSION_MODEL: SpendDimension
SPEND_DIMENSION_REGION: SpendDimension
SPEND_DIMENSION_SERVICE: SpendDimension
SPEND_DIMENSION_TIER: SpendDimension
SPEND_DIMENSION_TRACE: SpendDimension
SPEND_DIMENSION_TASK: SpendDimension
SPEND_DIMENSION_REQUEST: SpendDimension
SPEND_DIMENSION_HOUR: SpendDimension
SPEND_DIMENSION_DAY: SpendDimension
RECORD_OUTCOME_UNSPECIFIED: RecordOutcome
RECORD_OUTCOME_RECORDED: RecordOutcome
RECORD_OUTCOME_DUPLICATE: RecordOutcome
RECORD_OUTCOME_CONFLICT: RecordOutcome
RECORD_OUTCOME_INVALID: RecordOutcome
WASTE_UNSPECIFIED: Waste
WASTE_CANCELLED: Waste
WASTE_FAILED: Waste
WASTE_HEDGED: Waste
WASTE_ESCALATED: Waste
WASTE_SHADOW: Waste

class RecordChargesRequest(_message.Message):
    __slots__ = ("charges",)
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    def __init__(self, charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ...) -> None: ...

class Charge(_message.Message):
    __slots__ = ("charge_id", "request_id", "decision_id", "hold_id", "principal", "service", "model", "tier", "region", "instance_id", "trace_id", "span_id", "cost_lines", "total_nano_usd", "usage", "finish_reason", "waste", "price_version", "charge_time", "task")
    CHARGE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_ID_FIELD_NUMBER: _ClassVar[int]
    HOLD_ID_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    COST_LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    WASTE_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHARGE_TIME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    charge_id: str
    request_id: str
    decision_id: str
    hold_id: str
    principal: _common_pb2.Principal
    service: str
    model: str
    tier: _common_pb2.Tier
    region: str
    instance_id: str
    trace_id: str
    span_id: str
    cost_lines: _containers.RepeatedCompositeFieldContainer[_common_pb2.CostLine]
    total_nano_usd: int
    usage: _common_pb2.Usage
    finish_reason: _common_pb2.FinishReason
    waste: Waste
    price_version: str
    charge_time: _timestamp_pb2.Timestamp
    task: str
    def __init__(self, charge_id: _Optional[str] = ..., request_id: _Optional[str] = ..., decision_id: _Optional[str] = ..., hold_id: _Optional[str] = ..., principal: _Optional[_Union[_common_pb2.Principal, _Mapping]] = ..., service: _Optional[str] = ..., model: _Optional[str] = ..., tier: _Optional[_Union[_common_pb2.Tier, str]] = ..., region: _Optional[str] = ..., instance_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., cost_lines: _Optional[_Iterable[_Union[_common_pb2.CostLine, _Mapping]]] = ..., total_nano_usd: _Optional[int] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., waste: _Optional[_Union[Waste, str]] = ..., price_version: _Optional[str] = ..., charge_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., task: _Optional[str] = ...) -> None: ...

class RecordChargesResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedScalarFieldContainer[RecordOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[RecordOutcome, str]]] = ...) -> None: ...

class QuerySpendRequest(_message.Message):
    __slots__ = ("start_time", "end_time", "group_by", "filters", "row_limit")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    ROW_LIMIT_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    group_by: _containers.RepeatedScalarFieldContainer[SpendDimension]
    filters: _containers.RepeatedCompositeFieldContainer[SpendFilter]
    row_limit: int
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., group_by: _Optional[_Iterable[_Union[SpendDimension, str]]] = ..., filters: _Optional[_Iterable[_Union[SpendFilter, _Mapping]]] = ..., row_limit: _Optional[int] = ...) -> None: ...

class SpendFilter(_message.Message):
    __slots__ = ("dimension", "values")
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    dimension: SpendDimension
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, dimension: _Optional[_Union[SpendDimension, str]] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class QuerySpendResponse(_message.Message):
    __slots__ = ("rows", "total_nano_usd", "truncated")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[SpendRow]
    total_nano_usd: int
    truncated: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[SpendRow, _Mapping]]] = ..., total_nano_usd: _Optional[int] = ..., truncated: bool = ...) -> None: ...

class SpendRow(_message.Message):
    __slots__ = ("values", "total_nano_usd", "cost_lines", "charge_count", "input_token_count", "output_token_count", "waste_nano_usd")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    COST_LINES_FIELD_NUMBER: _ClassVar[int]
    CHARGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    WASTE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    total_nano_usd: int
    cost_lines: _containers.RepeatedCompositeFieldContainer[_common_pb2.CostLine]
    charge_count: int
    input_token_count: int
    output_token_count: int
    waste_nano_usd: int
    def __init__(self, values: _Optional[_Iterable[str]] = ..., total_nano_usd: _Optional[int] = ..., cost_lines: _Optional[_Iterable[_Union[_common_pb2.CostLine, _Mapping]]] = ..., charge_count: _Optional[int] = ..., input_token_count: _Optional[int] = ..., output_token_count: _Optional[int] = ..., waste_nano_usd: _Optional[int] = ...) -> None: ...

class ListChargesRequest(_message.Message):
    __slots__ = ("filters", "start_time", "end_time", "page_size", "page_token")
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[SpendFilter]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, filters: _Optional[_Iterable[_Union[SpendFilter, _Mapping]]] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListChargesResponse(_message.Message):
    __slots__ = ("charges", "next_page_token")
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    next_page_token: str
    def __init__(self, charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetTraceRequest(_message.Message):
    __slots__ = ("trace_id",)
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    def __init__(self, trace_id: _Optional[str] = ...) -> None: ...

class GetTraceResponse(_message.Message):
    __slots__ = ("spans", "charges", "total_nano_usd")
    SPANS_FIELD_NUMBER: _ClassVar[int]
    CHARGES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    charges: _containers.RepeatedCompositeFieldContainer[Charge]
    total_nano_usd: int
    def __init__(self, spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., charges: _Optional[_Iterable[_Union[Charge, _Mapping]]] = ..., total_nano_usd: _Optional[int] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("trace_id", "span_id", "parent_span_id", "name", "kind", "service_name", "region", "start_time", "end_time", "status", "attributes", "cost_nano_usd", "subtree_cost_nano_usd")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SUBTREE_COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    service_name: str
    region: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    status: str
    attributes: _containers.ScalarMap[str, str]
    cost_nano_usd: int
    subtree_cost_nano_usd: int
    def __init__(self, trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., parent_span_id: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ..., service_name: _Optional[str] = ..., region: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., cost_nano_usd: _Optional[int] = ..., subtree_cost_nano_usd: _Optional[int] = ...) -> None: ...
