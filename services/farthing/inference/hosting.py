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
from farthing.inference.residents import Find, Prepare, Prepared, Residents, Wish
from farthing.inference.servicer import InferenceServicer
from farthing.inference.serving_record import ServingRecord
from farthing.inference.settings import EngineSettings
from farthing.inference.store.contents import slug
from farthing.inference.store.ensuring import ensure_stored
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
        self._energy = metrics.counter(
            names.METRIC_INFERENCE_ENERGY, "Energy, where a meter is read.", ("model",)
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
        self._energy.labels(model).inc(usage.energy_uj / 1e6)
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

    `find` gives the model that the settings name; `prepare` tests one. `meta` is what discovery learns of an engine
    that is ready.
    """

    name: str
    discovery_name: str
    find: Find
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
    """Serve a first model, the store, and what administrators load later, until SIGTERM or SIGINT.

    `model` is what the settings name, fetched from the region when it is not here, and `name` what requests call it.
    What administrators changed holds after a restart too, until the settings name another model.
    """
    own_id = settings.resolve_instance_id(process.service)
    data_dir = settings.resolve_data_dir(process.service)
    record = ServingRecord(data_dir / f"serving-{slug(own_id)}.json", model, name)
    store = open_store(settings, process.tls)
    host, requests = ModelHost(is_stored=store.has), RequestMetrics(process.metrics)

    def make_engine(prepared: Prepared) -> RemoteEngine:
        return RemoteEngine(prepared.spawn, settings.patience(), requests.of(prepared.name))

    residents = Residents(
        host,
        tier.prepare,
        make_engine,
        limit_bytes=settings.models_bytes,
        drain_s=settings.retire_timeout_ms / 1000,
        remember=record.write,
    )

    def make_wish(served_name: str, reference: str) -> Wish:
        find = tier.find if reference == model else lambda: store.take(reference)
        return Wish(reference, find, served_name)

    try:
        engine = await residents.restore([make_wish(*pair) for pair in record.read().items()])
        if engine is None:
            await ensure_stored(store, model, settings, process.registry, own_id)
            engine = (await residents.load(make_wish(name, model), lasting=False)).engine
        _LOGGER.info(
            "ready",
            extra={
                "model": engine.info.name,
                "quantization": engine.info.quantization,
                "context_length": engine.info.context_length,
                **engine.ready.facts,
            },
        )
        process.metrics.registry.register(_HostCollector(host))
        models = ModelsServicer(
            store, require_admin, serving_limits(settings), residents=residents
        )
        await _serve(process, host, models, tier, tier.meta(engine))
    finally:
        # The server has drained: whoever still waits has no connection any more.
        await residents.close()


async def _serve(
    process: ServiceProcess,
    host: ModelHost,
    models_servicer: ModelsServicer,
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
        models_servicer,
        end_streams=models_servicer.end_streams,
    )
    models = host.models()
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
