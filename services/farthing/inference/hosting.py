"""What both tiers do around their engines: metrics, the servicer, discovery, drain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from farthing.api.inference.v1 import inference_pb2, inference_pb2_grpc
from farthing.api.models.v1 import models_pb2_grpc
from farthing.inference import wire
from farthing.inference.host import ModelHost
from farthing.inference.process.remote import Observer, RemoteEngine
from farthing.inference.residents import Prepare, Prepared, Residents
from farthing.inference.servicer import InferenceServicer
from farthing.inference.settings import EngineSettings
from farthing.inference.store.opening import open_store, serving_limits
from farthing.inference.store.servicer import ModelsServicer, RequireAdmin
from farthing.kit.process import ServiceProcess
from farthing.kit.telemetry import names
from farthing.kit.telemetry.metrics import Metrics

_LOGGER = logging.getLogger(__name__)


class RequestMetrics:
    """Counts what requests used, cancelled ones included."""

    def __init__(self, metrics: Metrics) -> None:
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

    def of(self, model: str) -> Observer:
        """Counts the requests of one model."""
        return _ModelMetrics(self, model)

    def count(self, model: str, completion: inference_pb2.Completion) -> None:
        """Count a request that has left its engine."""
        usage = completion.usage
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


@dataclass(frozen=True, slots=True)
class _ModelMetrics:
    """Implements Observer."""

    metrics: RequestMetrics
    model: str

    def request_done(self, completion: inference_pb2.Completion) -> None:
        self.metrics.count(self.model, completion)


class _HostCollector(Collector):
    """Loads and totals of all engines, with every scrape."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for engine in self._host.engines():
            if isinstance(engine, RemoteEngine):
                for family in self._describe(engine):
                    known = families.setdefault(family.name, family)
                    if known is not family:
                        known.samples.extend(family.samples)
        yield from families.values()

    def _describe(self, engine: RemoteEngine) -> Iterator[Metric]:
        report, model = engine.report, engine.info.name
        load = engine.load()[1]
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
                engine.restart_count,
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


@dataclass(frozen=True, slots=True)
class Tier:
    """What sets one tier apart from the other.

    `prepare` finds and tests a model. `meta` is what discovery learns of an engine that is ready.
    """

    name: str
    discovery_name: str
    prepare: Prepare
    meta: Callable[[RemoteEngine], Mapping[str, str]]


async def serve_tier(
    settings: EngineSettings,
    process: ServiceProcess,
    tier: Tier,
    *,
    model: str,
    name: str,
    require_admin: RequireAdmin,
) -> None:
    """Load the first model, then serve it, its store and what administrators load later, until SIGTERM or SIGINT."""
    host, requests = ModelHost(), RequestMetrics(process.metrics)

    def make_engine(prepared: Prepared) -> RemoteEngine:
        return RemoteEngine(prepared.spawn, settings.patience(), requests.of(prepared.name))

    residents = Residents(
        host,
        tier.prepare,
        make_engine,
        limit_bytes=settings.models_bytes,
        drain_s=settings.drain_ms / 1000,
    )
    engine = (await residents.load(model, name)).engine
    process.metrics.registry.register(_HostCollector(host))
    store = ModelsServicer(
        open_store(settings, process.tls),
        require_admin,
        serving_limits(settings),
        residents=residents,
    )
    _LOGGER.info(
        "model loaded",
        extra={
            "model": engine.info.name,
            "quantization": engine.info.quantization,
            "context_length": engine.info.context_length,
            **engine.ready.facts,
        },
    )
    await _serve(process, host, store, tier, tier.meta(engine))


async def _serve(
    process: ServiceProcess,
    host: ModelHost,
    store: ModelsServicer,
    tier: Tier,
    meta: Mapping[str, str],
) -> None:
    servicer = InferenceServicer(host)
    server = process.server()
    server.add(
        inference_pb2_grpc.add_InferenceServiceServicer_to_server,
        servicer,
        end_streams=servicer.end_streams,
    )
    server.add(
        models_pb2_grpc.add_ModelsServiceServicer_to_server,
        store,
        end_streams=store.end_streams,
    )
    models = host.models()
    try:
        await process.serve(
            server,
            discovery_name=tier.discovery_name,
            meta={
                "region": process.settings.region,
                "tier": tier.name,
                "models": ",".join(model.name for model in models),
                "model_digest": ",".join(model.digest for model in models),
                **meta,
            },
        )
    finally:
        # The server has drained: whoever still waits has no connection any more.
        await host.close(0)
