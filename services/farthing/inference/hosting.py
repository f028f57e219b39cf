"""What both tiers do around their engines: metrics, the servicer, discovery, drain."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.api.inference.v1 import inference_pb2, inference_pb2_grpc
from farthing.inference import wire
from farthing.inference.host import ModelHost
from farthing.inference.process.remote import RemoteEngine
from farthing.inference.servicer import InferenceServicer
from farthing.kit.process import ServiceProcess
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics

_LOGGER = logging.getLogger(__name__)


class RequestMetrics:
    """Implements Observer: counts what requests used, cancelled ones included."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._model = model
        self._requests = metrics.counter(
            names.METRIC_INFERENCE_REQUESTS,
            "Requests that left the engine.",
            ("model", "finish_reason"),
        )
        self._tokens = metrics.counter(
            names.METRIC_INFERENCE_TOKENS,
            "Tokens: input (cached ones included), cached_input, output.",
            ("model", "kind"),
        )
        self._compute = metrics.counter(
            names.METRIC_INFERENCE_COMPUTE, "Device time.", ("model", "phase")
        )

    def request_done(self, completion: inference_pb2.Completion) -> None:
        """See Observer."""
        usage, model = completion.usage, self._model
        reason = wire.describe_reason(completion.finish_reason)
        self._requests.labels(model, reason).inc()
        self._tokens.labels(model, "input").inc(usage.input_token_count)
        self._tokens.labels(model, "cached_input").inc(usage.cached_input_token_count)
        self._tokens.labels(model, "output").inc(usage.output_token_count)
        self._compute.labels(model, "prefill").inc(usage.prefill_us / 1e6)
        self._compute.labels(model, "decode").inc(usage.decode_us / 1e6)
        level = logging.WARNING if reason == "error" else logging.DEBUG
        _LOGGER.log(
            level,
            "request done",
            extra={
                "model": model,
                "finish_reason": reason,
                "input_token_count": usage.input_token_count,
                "output_token_count": usage.output_token_count,
                "queue_us": usage.queue_us,
                "compute_us": usage.compute_us,
            },
        )


def watch_engine(metrics: Metrics, engine: RemoteEngine) -> None:
    """Publish an engine's load and totals with every scrape."""
    metrics.registry.register(_EngineCollector(engine))


class _EngineCollector(Collector):
    def __init__(self, engine: RemoteEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        report, model = self._engine.report, self._engine.info.name
        load = self._engine.load()[1]
        for name, doc, value in (
            (
                names.METRIC_INFERENCE_RUNNING,
                "Requests being computed.",
                load.running_request_count,
            ),
            (names.METRIC_INFERENCE_QUEUED, "Requests waiting.", load.queued_request_count),
            (
                names.METRIC_INFERENCE_KV_TOKENS,
                "Tokens held for requests.",
                load.kv_token_count,
            ),
            (
                names.METRIC_INFERENCE_CACHED_TOKENS,
                "Tokens held beside.",
                load.cached_token_count,
            ),
        ):
            yield _gauge(name, doc, model, value)
        for name, doc, total in (
            (names.METRIC_INFERENCE_BUSY, "Seconds spent in steps.", report.busy_us / 1e6),
            (names.METRIC_INFERENCE_STEPS, "Steps computed.", report.step_count),
            (names.METRIC_INFERENCE_PAUSES, "Requests that gave way.", report.pause_count),
            (names.METRIC_INFERENCE_LOST_STEPS, "Steps that failed.", report.lost_step_count),
            (
                names.METRIC_INFERENCE_RESTARTS,
                "Engines lost and started again.",
                self._engine.restart_count,
            ),
        ):
            yield _counter(name, doc, model, total)


def _gauge(name: str, doc: str, model: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, doc, labels=["model"])
    family.add_metric([model], value)
    return family


def _counter(name: str, doc: str, model: str, value: float) -> Metric:
    family = CounterMetricFamily(name, doc, labels=["model"])
    family.add_metric([model], value)
    return family


async def serve_host(
    process: ServiceProcess,
    host: ModelHost,
    *,
    discovery_name: str,
    tier: str,
    meta: Mapping[str, str],
) -> None:
    """Serve a host's models until SIGTERM or SIGINT, and close it.

    Discovery learns the region and tier, the models, and `meta`.
    """
    servicer = InferenceServicer(host)
    server = process.server()
    server.add(
        inference_pb2_grpc.add_InferenceServiceServicer_to_server,
        servicer,
        end_streams=servicer.end_streams,
    )
    models = host.models()

    try:
        await process.serve(
            server,
            discovery_name=discovery_name,
            meta={
                "region": process.settings.region,
                "tier": tier,
                "models": ",".join(model.name for model in models),
                "model_digest": ",".join(model.digest for model in models),
                **meta,
            },
        )
    finally:
        # The server has drained: whoever still waits has no connection any more.
        await host.close(0)
