"""Structured logs on standard error: JSON for machines, text for people, trace ids on both."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from farthing.kit.settings import ServiceSettings, SettingsError
from farthing.kit.telemetry.spans import TraceContext

_LEVELS = ("debug", "info", "warning", "error")
# What the standard library puts on every record; anything else came in `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: ServiceSettings, *, service: str, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (standard error when None). SettingsError on an unknown level or format."""
    level = settings.log_level.lower()
    if level not in _LEVELS:
        raise SettingsError(
            f"FARTHING_LOG_LEVEL={settings.log_level!r} is unknown; use {', '.join(_LEVELS)}",
            env="FARTHING_LOG_LEVEL",
        )
    formatter: logging.Formatter
    if settings.log_format == "json":
        formatter = JsonFormatter(service=service)
    elif settings.log_format == "text":
        formatter = TextFormatter(service=service)
    else:
        raise SettingsError(
            f"FARTHING_LOG_FORMAT={settings.log_format!r} is unknown; use json or text",
            env="FARTHING_LOG_FORMAT",
        )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def trace_fields(context: TraceContext) -> dict[str, str]:
    """What to pass as `extra` so that a line can be found from its trace."""
    return {"trace_id": context.trace_id, "span_id": context.span_id}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, logger, message, then the extras."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """One line for people, extras as key=value at its end."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        line = (
            f"{_timestamp(record)} {record.levelname:<7} {self._service}: "
            f"{record.getMessage()}{extras}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _timestamp(record: logging.LogRecord) -> str:
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
