"""The one table between domain errors and gRPC status with `google.rpc` details, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from farthing.kit import errors

DOMAIN = "farthing"
STATUS_METADATA_KEY = "grpc-status-details-bin"

# gRPC clients take 8 KiB of headers unless told otherwise, and turn a larger error into one of their own.
_MOST_WIRE_BYTES = 7_000
_MOST_MESSAGE_BYTES = 768
_MOST_METADATA_BYTES = 1_536

_TABLE: dict[type[errors.FarthingError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
_BY_CODE = {code: cls for cls, code in _TABLE.items()}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: errors.FarthingError) -> grpc.StatusCode:
    """The status code of a domain error; INTERNAL for a class the table does not list."""
    for cls in type(error).__mro__:
        if cls in _TABLE:
            return _TABLE[cls]
    return grpc.StatusCode.INTERNAL


def class_of(number: int) -> type[errors.FarthingError]:
    """The domain error of a status code's number; Internal for one the table does not list."""
    code = _BY_NUMBER.get(number)
    return errors.Internal if code is None else _BY_CODE.get(code, errors.Internal)


def encode_error(error: errors.FarthingError) -> status_pb2.Status:
    """Build the rich status: exactly one ErrorInfo, BadRequest for a field, RetryInfo where waiting helps.

    What would not fit into a client's headers is left out: the end of the message, and whole entries of the metadata.
    """
    status = _build(error, error.message, error.metadata)
    if _wire_bytes(status) > _MOST_WIRE_BYTES:
        status = _build(error, _clip(error.message), _keep_entries(error))
    return status


def _build(
    error: errors.FarthingError, message: str, metadata: Mapping[str, str]
) -> status_pb2.Status:
    number: int = code_of(error).value[0]
    status = status_pb2.Status(code=number, message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status.details.append(_pack(info))
    if isinstance(error, errors.InvalidArgument):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        status.details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    if error.retry_after_ms > 0:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        status.details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def _wire_bytes(status: status_pb2.Status) -> int:
    """Size in headers: the message percent-encoded, and the whole once more in base64."""
    text = status.message.encode()
    escaped = sum(1 if 0x20 <= byte <= 0x7E else 3 for byte in text)
    return escaped + status.ByteSize() * 4 // 3


def _clip(message: str) -> str:
    data = message.encode()
    if len(data) <= _MOST_MESSAGE_BYTES:
        return message
    return data[:_MOST_MESSAGE_BYTES].decode(errors="ignore") + "…"


def _keep_entries(error: errors.FarthingError) -> dict[str, str]:
    left, kept = _MOST_METADATA_BYTES, {}
    # The field of an InvalidArgument comes last and is what callers look for first.
    for key, value in sorted(error.metadata.items(), key=lambda entry: entry[0] != "field"):
        left -= len(key.encode()) + len(value.encode()) + 6  # tags and lengths
        if left >= 0:
            kept[key] = value
    return kept


class FailedCall(Protocol):
    """What went wrong with a call; grpc.aio.AioRpcError is one, and so are the errors of blocking channels."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Any: ...


def decode_error(error: FailedCall) -> errors.FarthingError:
    """Turn a failed call back into the domain error that the callee raised, as far as the wire tells."""
    reason, metadata, retry_after_ms = f"GRPC_{error.code().name}", {}, 0
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA_KEY and isinstance(value, bytes):
            for detail in _details(value):
                info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(retry):
                    retry_after_ms = retry.retry_delay.ToMilliseconds()
    message = error.details() or error.code().name
    cls = _BY_CODE.get(error.code(), errors.Internal)
    if cls is errors.InvalidArgument:
        field = metadata.pop("field", "request")
        return errors.InvalidArgument(message, field=field, reason=reason, metadata=metadata)
    return cls(message, reason=reason, metadata=metadata, retry_after_ms=retry_after_ms)


def _details(data: bytes) -> Iterable[any_pb2.Any]:
    try:
        return status_pb2.Status.FromString(data).details
    except (
        DecodeError
    ):  # whatever stands between us and the service made this: code and text still count
        return ()


def _pack(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.BadRequest
    | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
