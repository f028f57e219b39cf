from farthing.api.common.v1 import common_pb2 as _common_pb2
from farthing.api.inference.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToEngine(_message.Message):
    __slots__ = ("starts", "cancel_ids", "embeds")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_IDS_FIELD_NUMBER: _ClassVar[int]
    EMBEDS_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedCompositeFieldContainer[Start]
    cancel_ids: _containers.RepeatedScalarFieldContainer[int]
    embeds: _containers.RepeatedCompositeFieldContainer[Embed]
    def __init__(self, starts: _Optional[_Iterable[_Union[Start, _Mapping]]] = ..., cancel_ids: _Optional[_Iterable[int]] = ..., embeds: _Optional[_Iterable[_Union[Embed, _Mapping]]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: int
    request: _inference_pb2.GenerateRequest
    def __init__(self, id: _Optional[int] = ..., request: _Optional[_Union[_inference_pb2.GenerateRequest, _Mapping]] = ...) -> None: ...

class Embed(_message.Message):
    __slots__ = ("id", "texts")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    id: int
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[int] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class FromEngine(_message.Message):
    __slots__ = ("events", "report", "ready", "failure")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    report: Report
    ready: Ready
    failure: _common_pb2.Failure
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "delta", "completion", "failure", "embeddings")
    ID_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    id: int
    delta: _inference_pb2.Delta
    completion: _inference_pb2.Completion
    failure: _common_pb2.Failure
    embeddings: _inference_pb2.EmbedResponse
    def __init__(self, id: _Optional[int] = ..., delta: _Optional[_Union[_inference_pb2.Delta, _Mapping]] = ..., completion: _Optional[_Union[_inference_pb2.Completion, _Mapping]] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., embeddings: _Optional[_Union[_inference_pb2.EmbedResponse, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("model", "weights_bytes", "kv_bytes", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_BYTES_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    model: _inference_pb2.ModelInfo
    weights_bytes: int
    kv_bytes: int
    facts: _containers.ScalarMap[str, str]
    def __init__(self, model: _Optional[_Union[_inference_pb2.ModelInfo, _Mapping]] = ..., weights_bytes: _Optional[int] = ..., kv_bytes: _Optional[int] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("load", "step_age_us", "busy_us", "step_count", "guessed_token_count", "right_token_count", "pause_count", "lost_step_count")
    LOAD_FIELD_NUMBER: _ClassVar[int]
    STEP_AGE_US_FIELD_NUMBER: _ClassVar[int]
    BUSY_US_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    GUESSED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    RIGHT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAUSE_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOST_STEP_COUNT_FIELD_NUMBER: _ClassVar[int]
    load: _inference_pb2.LoadReport
    step_age_us: int
    busy_us: int
    step_count: int
    guessed_token_count: int
    right_token_count: int
    pause_count: int
    lost_step_count: int
    def __init__(self, load: _Optional[_Union[_inference_pb2.LoadReport, _Mapping]] = ..., step_age_us: _Optional[int] = ..., busy_us: _Optional[int] = ..., step_count: _Optional[int] = ..., guessed_token_count: _Optional[int] = ..., right_token_count: _Optional[int] = ..., pause_count: _Optional[int] = ..., lost_step_count: _Optional[int] = ...) -> None: ...
