"""Log lines as machines and people read them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from farthing.kit.settings import ServiceSettings, SettingsError
from farthing.kit.telemetry import logs
from farthing.kit.telemetry.spans import TraceContext

TRACE = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def write(settings: ServiceSettings) -> str:
    stream = io.StringIO()
    logs.configure(settings, service="router", stream=stream)
    log = logging.getLogger("farthing.test")
    log.info("chose %s", "edge-small", extra={**logs.trace_fields(TRACE), "cost_nano_usd": 17})
    log.debug("not shown")
    try:
        raise ValueError("broken\nline")
    except ValueError:
        log.exception("failed")
    return stream.getvalue()


def test_json_lines_are_one_object_each_with_trace_ids() -> None:
    first, second = (json.loads(line) for line in write(ServiceSettings()).splitlines())
    assert first["message"] == "chose edge-small"
    assert first["trace_id"] == TRACE.trace_id
    assert first["span_id"] == TRACE.span_id
    assert first["cost_nano_usd"] == 17
    assert (first["level"], first["service"], first["logger"]) == (
        "info",
        "router",
        "farthing.test",
    )
    assert first["time"].endswith("Z")
    assert "ValueError: broken" in second["exception"]


def test_text_lines_are_for_people() -> None:
    text = write(ServiceSettings(log_format="text"))
    assert "INFO    router: chose edge-small" in text
    assert "cost_nano_usd=17" in text
    assert "Traceback" in text


@pytest.mark.parametrize(
    ("settings", "env"),
    [
        (ServiceSettings(log_level="loud"), "FARTHING_LOG_LEVEL"),
        (ServiceSettings(log_format="xml"), "FARTHING_LOG_FORMAT"),
    ],
)
def test_a_wrong_setting_is_named(settings: ServiceSettings, env: str) -> None:
    with pytest.raises(SettingsError, match=env):
        logs.configure(settings, service="router")
