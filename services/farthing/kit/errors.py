"""What can go wrong, in terms of the domain. `kit.rpc` alone knows how these look on the wire."""

from __future__ import annotations

from collections.abc import Mapping


class FarthingError(Exception):
    """An error that a caller may act on.

    `reason` is UPPER_SNAKE and stable; `message` is one sentence that says what to do; everything variable in the
    message is also in `metadata`. `retry_after_ms` > 0 says when trying again may help.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_ms = retry_after_ms


class InvalidArgument(FarthingError):
    """A field is wrong. The message names the field and the fix."""

    def __init__(
        self,
        message: str,
        *,
        field: str,
        reason: str = "INVALID_FIELD",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata={**(metadata or {}), "field": field})
        self.field = field


class NotFound(FarthingError):
    """The thing named does not exist."""


class AlreadyExists(FarthingError):
    """The thing to make exists, with other content."""


class FailedPrecondition(FarthingError):
    """The state of the system forbids it; trying again without a change is useless."""


class Unauthenticated(FarthingError):
    """No valid API key."""


class PermissionDenied(FarthingError):
    """A valid API key that may not do this."""


class ResourceExhausted(FarthingError):
    """Out of budget, rate or room."""


class Unavailable(FarthingError):
    """A part is down or draining; trying again may help."""


class DeadlineExceeded(FarthingError):
    """Out of time."""


class Cancelled(FarthingError):
    """The caller went away."""


class Aborted(FarthingError):
    """A concurrent change won; try again."""


class Unimplemented(FarthingError):
    """This build or model cannot do it."""


class Internal(FarthingError):
    """A defect of ours. Details are in the log, not in the message."""
