import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListArtefactsRequest(_message.Message):
    __slots__ = ("name", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ListArtefactsResponse(_message.Message):
    __slots__ = ("artefacts",)
    ARTEFACTS_FIELD_NUMBER: _ClassVar[int]
    artefacts: _containers.RepeatedCompositeFieldContainer[Artefact]
    def __init__(self, artefacts: _Optional[_Iterable[_Union[Artefact, _Mapping]]] = ...) -> None: ...

class Artefact(_message.Message):
    __slots__ = ("digest", "names", "format", "quantization", "size_bytes", "files", "card_json", "provenance")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    CARD_JSON_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    names: _containers.RepeatedScalarFieldContainer[str]
    format: str
    quantization: str
    size_bytes: int
    files: _containers.RepeatedCompositeFieldContainer[ArtefactFile]
    card_json: str
    provenance: ArtefactProvenance
    def __init__(self, digest: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., format: _Optional[str] = ..., quantization: _Optional[str] = ..., size_bytes: _Optional[int] = ..., files: _Optional[_Iterable[_Union[ArtefactFile, _Mapping]]] = ..., card_json: _Optional[str] = ..., provenance: _Optional[_Union[ArtefactProvenance, _Mapping]] = ...) -> None: ...

class ArtefactFile(_message.Message):
    __slots__ = ("path", "size_bytes", "sha256")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    sha256: str
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class ArtefactProvenance(_message.Message):
    __slots__ = ("source", "revision", "add_time", "licence", "derivation")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ADD_TIME_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    DERIVATION_FIELD_NUMBER: _ClassVar[int]
    source: str
    revision: str
    add_time: _timestamp_pb2.Timestamp
    licence: str
    derivation: Derivation
    def __init__(self, source: _Optional[str] = ..., revision: _Optional[str] = ..., add_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., licence: _Optional[str] = ..., derivation: _Optional[_Union[Derivation, _Mapping]] = ...) -> None: ...

class Derivation(_message.Message):
    __slots__ = ("name", "digest", "root_digest", "quantization", "tool", "host", "make_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROOT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    MAKE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    root_digest: str
    quantization: str
    tool: str
    host: str
    make_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., root_digest: _Optional[str] = ..., quantization: _Optional[str] = ..., tool: _Optional[str] = ..., host: _Optional[str] = ..., make_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReadArtefactRequest(_message.Message):
    __slots__ = ("digest", "path", "offset_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    path: str
    offset_bytes: int
    def __init__(self, digest: _Optional[str] = ..., path: _Optional[str] = ..., offset_bytes: _Optional[int] = ...) -> None: ...

class ReadArtefactResponse(_message.Message):
    __slots__ = ("file", "chunk")
    FILE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    file: ArtefactFile
    chunk: bytes
    def __init__(self, file: _Optional[_Union[ArtefactFile, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class AddModelRequest(_message.Message):
    __slots__ = ("source", "name", "replace", "sha256", "evict")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EVICT_FIELD_NUMBER: _ClassVar[int]
    source: str
    name: str
    replace: bool
    sha256: str
    evict: bool
    def __init__(self, source: _Optional[str] = ..., name: _Optional[str] = ..., replace: bool = ..., sha256: _Optional[str] = ..., evict: bool = ...) -> None: ...

class AddModelResponse(_message.Message):
    __slots__ = ("progress", "artefact")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ARTEFACT_FIELD_NUMBER: _ClassVar[int]
    progress: AddProgress
    artefact: Artefact
    def __init__(self, progress: _Optional[_Union[AddProgress, _Mapping]] = ..., artefact: _Optional[_Union[Artefact, _Mapping]] = ...) -> None: ...

class AddProgress(_message.Message):
    __slots__ = ("stage", "detail", "done_bytes", "total_bytes")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DONE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    stage: str
    detail: str
    done_bytes: int
    total_bytes: int
    def __init__(self, stage: _Optional[str] = ..., detail: _Optional[str] = ..., done_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class RemoveModelRequest(_message.Message):
    __slots__ = ("name", "force")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    def __init__(self, name: _Optional[str] = ..., force: bool = ...) -> None: ...

class RemoveModelResponse(_message.Message):
    __slots__ = ("freed_bytes",)
    FREED_BYTES_FIELD_NUMBER: _ClassVar[int]
    freed_bytes: int
    def __init__(self, freed_bytes: _Optional[int] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("model", "name", "swap", "canaries", "least_canary_ratio")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    LEAST_CANARY_RATIO_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    swap: bool
    canaries: _containers.RepeatedCompositeFieldContainer[Canary]
    least_canary_ratio: float
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ..., swap: bool = ..., canaries: _Optional[_Iterable[_Union[Canary, _Mapping]]] = ..., least_canary_ratio: _Optional[float] = ...) -> None: ...

class Canary(_message.Message):
    __slots__ = ("prompt", "answer")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    answer: str
    def __init__(self, prompt: _Optional[str] = ..., answer: _Optional[str] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("name", "digest", "unloaded", "memory_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    UNLOADED_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    unloaded: _containers.RepeatedScalarFieldContainer[str]
    memory_bytes: int
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., unloaded: _Optional[_Iterable[str]] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
