"""Prometheus metrics in a registry of their own, served by a small thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.kit.errors import FarthingError
from farthing.kit.telemetry import names
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.kit.telemetry.tallies import Tally, Timings
from farthing.kit.version import __version__

# Seconds. From a local lookup to a long generation; the convention's buckets, one finer step below and two above.
_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip


class Metrics:
    """One process's metrics: calls by method and code from the start, others as services add them."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._calls = Timings(
            names.METRIC_CALL_DURATION, "Duration of RPCs served.", ("method", "code"), _BUCKETS
        )
        self.registry.register(self._calls)
        self._in_flight = self.tally(
            names.METRIC_CALLS_IN_FLIGHT, "RPCs being served.", ("method",), falls=True
        )
        build = self.gauge(
            f"{names.METRIC_BUILD_INFO}_info", "What is running.", ("service", "version")
        )
        build.labels(service, __version__).set(1)
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def counter(self, name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; Prometheus adds `_total` to its name."""
        return Counter(name, doc, labels, registry=self.registry)

    def tally(
        self, name: str, doc: str, labels: Sequence[str] = (), *, falls: bool = False
    ) -> Tally:
        """A counter, or with `falls` a gauge, for the hot path."""
        tally = Tally(name, doc, labels, falls=falls)
        self.registry.register(tally)
        return tally

    def gauge(self, name: str, doc: str, labels: Sequence[str] = ()) -> Gauge:
        """A gauge."""
        return Gauge(name, doc, labels, registry=self.registry)

    def histogram(
        self,
        name: str,
        doc: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = _BUCKETS,
    ) -> Histogram:
        """A histogram; by default with buckets for seconds."""
        return Histogram(name, doc, labels, registry=self.registry, buckets=buckets)

    def rpc_started(self, method: str) -> None:
        """An RPC came in; `method` is the full name, without a leading slash."""
        self._in_flight.add((method,))

    def rpc_ended(self, method: str, code: str, duration_s: float) -> None:
        """The RPC was answered with `code`, e.g. "OK". Call once for each rpc_started."""
        self._calls.add((method, code), duration_s)
        self._in_flight.add((method,), -1)

    def watch_recorder(self, recorder: SpanRecorder) -> None:
        """Publish how many spans were recorded and dropped."""
        self.registry.register(_RecorderCollector(recorder))

    def serve(self, host: str, port: int) -> int:
        """Serve /metrics; return the port, which is chosen when `port` is 0. FarthingError when it is taken."""
        try:
            self._server = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise FarthingError(
                f"cannot serve metrics on {host}:{port}: {error.strerror}; set FARTHING_METRICS_PORT",
                reason="METRICS_PORT_TAKEN",
                metadata={"host": host, "port": str(port)},
            ) from error
        return self._server[0].server_port

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join()
            self._server = None


class _RecorderCollector(Collector):
    def __init__(self, recorder: SpanRecorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            names.METRIC_SPANS_RECORDED, "Spans recorded.", value=self._recorder.recorded_count
        )
        yield CounterMetricFamily(
            names.METRIC_SPANS_DROPPED,
            "Spans lost because the receiver was away for too long.",
            value=self._recorder.dropped_count,
        )
