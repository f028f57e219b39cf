import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetPlanRequest(_message.Message):
    __slots__ = ("region",)
    REGION_FIELD_NUMBER: _ClassVar[int]
    region: str
    def __init__(self, region: _Optional[str] = ...) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("plans",)
    PLANS_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[ReplicaPlan]
    def __init__(self, plans: _Optional[_Iterable[_Union[ReplicaPlan, _Mapping]]] = ...) -> None: ...

class ReplicaPlan(_message.Message):
    __slots__ = ("deployment", "region", "current_count", "desired_count", "cost_nano_usd_per_hour", "reason", "plan_time")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DESIRED_COUNT_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_PER_HOUR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PLAN_TIME_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    region: str
    current_count: int
    desired_count: int
    cost_nano_usd_per_hour: int
    reason: str
    plan_time: _timestamp_pb2.Timestamp
    def __init__(self, deployment: _Optional[str] = ..., region: _Optional[str] = ..., current_count: _Optional[int] = ..., desired_count: _Optional[int] = ..., cost_nano_usd_per_hour: _Optional[int] = ..., reason: _Optional[str] = ..., plan_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
