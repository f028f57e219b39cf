"""Domain errors as messages: where one request of a call fails and the call goes on."""

from __future__ import annotations

from farthing.api.common.v1 import common_pb2
from farthing.kit import errors
from farthing.kit.rpc.status import class_of, code_of


def encode_failure(error: errors.FarthingError) -> common_pb2.Failure:
    """A domain error."""
    number: int = code_of(error).value[0]
    return common_pb2.Failure(
        code=number,
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
        retry_after_ms=error.retry_after_ms,
    )


def decode_failure(failure: common_pb2.Failure) -> errors.FarthingError:
    """The error as it was raised; an unknown code is Internal."""
    kind, metadata = class_of(failure.code), dict(failure.metadata)
    if kind is errors.InvalidArgument:
        field = metadata.get("field", "request")
        return errors.InvalidArgument(
            failure.message, field=field, reason=failure.reason, metadata=metadata
        )
    return kind(
        failure.message,
        reason=failure.reason,
        metadata=metadata,
        retry_after_ms=failure.retry_after_ms,
    )
