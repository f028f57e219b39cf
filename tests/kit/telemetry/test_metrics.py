"""Metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

import aiohttp
import pytest

from farthing.kit.errors import FarthingError
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder

METHOD = "farthing.api.router.v1.RouterService/Complete"


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics("router")
    yield metrics
    metrics.close()


def test_calls_are_counted_by_method_and_code(metrics: Metrics) -> None:
    for code in ("OK", "OK", "UNAVAILABLE"):
        metrics.rpc_started(METHOD)
        metrics.rpc_ended(METHOD, code, 0.004)
    metrics.rpc_started(METHOD)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"method": METHOD, **labels})

    assert value("rpc_server_call_duration_seconds_count", code="OK") == 2
    assert value("rpc_server_call_duration_seconds_count", code="UNAVAILABLE") == 1
    assert value("rpc_server_call_duration_seconds_bucket", code="OK", le="0.005") == 2
    assert value("farthing_rpc_server_in_flight") == 1


async def test_a_scrape_over_http_shows_dropped_spans(metrics: Metrics) -> None:
    recorder = SpanRecorder(capacity_count=1)
    metrics.watch_recorder(recorder)
    for _ in range(3):
        recorder.start("work").end()
    port = metrics.serve("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
    assert "farthing_spans_dropped_total 2.0" in text
    assert "farthing_spans_recorded_total 3.0" in text
    assert 'farthing_build_info{service="router"' in text


def test_a_taken_port_names_the_setting(metrics: Metrics) -> None:
    port = metrics.serve("127.0.0.1", 0)
    with pytest.raises(FarthingError, match="FARTHING_METRICS_PORT"):
        Metrics("other").serve("127.0.0.1", port)


def test_two_processes_worth_of_metrics_can_live_in_one() -> None:
    assert Metrics("a").registry is not Metrics("a").registry
