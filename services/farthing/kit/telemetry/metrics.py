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
from farthing.kit.version import __version__

# Seconds. From a local lookup to a long generation; the convention's buckets, one finer step below and two above.
_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip


class Metrics:
    """One process's metrics: calls by method and code from the start, others as services add them."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._calls = self.histogram(
            names.METRIC_CALL_DURATION, "Duration of RPCs served.", ("method", "code")
        )
        self._in_flight = self.gauge(
            names.METRIC_CALLS_IN_FLIGHT, "RPCs being served.", ("method",)
        )
        build = self.gauge(
            f"{names.METRIC_BUILD_INFO}_info", "What is running.", ("service", "version")
        )
        build.labels(service, __version__).set(1)
        # Looking a labelled child up costs more than the observation; both sets of labels are small and closed.
        self._call_children: dict[tuple[str, str], Histogram] = {}
        self._in_flight_children: dict[str, Gauge] = {}
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def counter(self, name: str, doc: str, labels: Sequence[str] = ()) -> Counter:
        """A counter; Prometheus adds `_total` to its name."""
        return Counter(name, doc, labels, registry=self.registry)

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
        child = self._in_flight_children.get(method)
        if child is None:
            child = self._in_flight_children[method] = self._in_flight.labels(method)
        child.inc()

    def rpc_ended(self, method: str, code: str, duration_s: float) -> None:
        """The RPC was answered with `code`, e.g. "OK". Call once for each rpc_started."""
        child = self._call_children.get((method, code))
        if child is None:
            child = self._call_children[method, code] = self._calls.labels(method, code)
        child.observe(duration_s)
        self._in_flight_children[method].dec()

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
