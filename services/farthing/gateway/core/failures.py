"""Errors as OpenAI's clients expect them: HTTP status, type, code, parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from farthing.kit import errors

_STATUS: dict[type[errors.FarthingError], tuple[int, str]] = {
    errors.InvalidArgument: (400, "invalid_request_error"),
    errors.FailedPrecondition: (400, "invalid_request_error"),
    errors.Unauthenticated: (401, "invalid_request_error"),
    errors.PermissionDenied: (403, "permission_error"),
    errors.NotFound: (404, "invalid_request_error"),
    errors.AlreadyExists: (409, "conflict_error"),
    errors.Aborted: (409, "conflict_error"),
    errors.ResourceExhausted: (429, "rate_limit_error"),
    errors.Cancelled: (499, "cancelled"),
    errors.Internal: (500, "server_error"),
    errors.Unimplemented: (501, "server_error"),
    errors.Unavailable: (503, "service_unavailable"),
    errors.DeadlineExceeded: (504, "timeout"),
}
# Fields of the router's contract under the names that OpenAI's clients used.
_PARAMS = {
    "input.messages": "messages",
    "input.prompt": "prompt",
    "input.max_tokens": "max_tokens",
    "input.stop": "stop",
    "input.logprobs": "logprobs",
    "input.top_logprobs": "top_logprobs",
    "input.response_format": "response_format",
    "input.response_format.json_schema": "response_format",
    "constraints.max_cost_nano_usd": "farthing.max_cost_usd",
    "constraints.min_quality_ratio": "farthing.min_quality",
    "constraints.max_total_ms": "farthing.max_latency_ms",
    "constraints.privacy_class": "farthing.privacy",
    "constraints.cache_mode": "farthing.cache",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error reply. `retry_after_ms` 0 says nothing about trying again."""

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    retry_after_ms: int = 0

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """When to try again, in seconds for everyone and in milliseconds for OpenAI's clients."""
        if self.retry_after_ms <= 0:
            return {}
        return {
            "retry-after": str(-(-self.retry_after_ms // 1000)),
            "retry-after-ms": str(self.retry_after_ms),
        }


def describe_failure(error: errors.FarthingError) -> Failure:
    """The reply for a domain error. A spent budget is 402, which clients do not retry; a rate limit is 429."""
    status, kind = next(
        (_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), (500, "server_error")
    )
    code, param = error.reason.lower(), None
    if isinstance(error, errors.InvalidArgument):
        param = _rename(error.field)
    elif isinstance(error, errors.Unauthenticated):
        code = "invalid_api_key"
    elif isinstance(error, errors.NotFound):
        code, param = "model_not_found", "model"
    elif isinstance(error, errors.ResourceExhausted) and "BUDGET" in error.reason:
        status, kind, code = 402, "insufficient_quota", "insufficient_quota"
    elif isinstance(error, errors.ResourceExhausted) and "RATE" in error.reason:
        code = "rate_limit_exceeded"
    return Failure(status, kind, code, error.message, param, error.retry_after_ms)


def _rename(field: str) -> str:
    if field in _PARAMS:
        return _PARAMS[field]
    for prefix, replacement in (
        ("input.sampling.", ""),
        ("input.", ""),
        ("constraints.", "farthing."),
    ):
        if field.startswith(prefix):
            return replacement + field.removeprefix(prefix)
    return field
