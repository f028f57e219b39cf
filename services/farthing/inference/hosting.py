"""What both tiers do around an engine: metrics of finished requests, the servicer, discovery, drain."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from farthing.api.inference.v1 import inference_pb2_grpc
from farthing.inference.engine import DoneEvent, Engine, EngineRequest, FinishReason
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
        self._running = metrics.gauge(
            names.METRIC_INFERENCE_RUNNING, "Requests being computed.", ("model",)
        )
        self._queued = metrics.gauge(
            names.METRIC_INFERENCE_QUEUED, "Requests waiting.", ("model",)
        )

    def watch(self, engine: Engine) -> None:
        """Publishes the engine's load whenever somebody scrapes."""
        self._running.labels(self._model).set_function(
            lambda: engine.load().running_request_count
        )
        self._queued.labels(self._model).set_function(
            lambda: engine.load().queued_request_count
        )

    def request_done(self, request: EngineRequest, done: DoneEvent) -> None:
        """See Observer."""
        usage, model = done.usage, self._model
        self._requests.labels(model, done.finish_reason.value).inc()
        self._tokens.labels(model, "input").inc(usage.input_token_count)
        self._tokens.labels(model, "cached_input").inc(usage.cached_input_token_count)
        self._tokens.labels(model, "output").inc(usage.output_token_count)
        self._compute.labels(model, "prefill").inc(usage.prefill_us / 1e6)
        self._compute.labels(model, "decode").inc(usage.decode_us / 1e6)
        level = logging.WARNING if done.finish_reason is FinishReason.ERROR else logging.DEBUG
        _LOGGER.log(
            level,
            "request done",
            extra={
                "request_id": request.request_id,
                "model": model,
                "finish_reason": done.finish_reason.value,
                "input_token_count": usage.input_token_count,
                "output_token_count": usage.output_token_count,
                "queue_us": usage.queue_us,
                "compute_us": usage.compute_us,
            },
        )


async def serve_engine(
    process: ServiceProcess,
    engine: Engine,
    *,
    discovery_name: str,
    tier: str,
    meta: Mapping[str, str],
) -> None:
    """Starts the engine, serves it until SIGTERM or SIGINT, and closes it.

    Discovery learns the region and tier, the model, and `meta`.
    """
    await engine.start()
    try:
        servicer = InferenceServicer(engine)
        server = process.server()
        server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer)

        async def stop_watches() -> None:
            servicer.stop_watches()

        await process.serve(
            server,
            discovery_name=discovery_name,
            meta={
                "region": process.settings.region,
                "tier": tier,
                "models": engine.model.name,
                "model_digest": engine.model.digest,
                **meta,
            },
            on_stopping=stop_watches,
        )
    finally:
        # The server has drained: whoever still waits has no connection any more.
        await engine.close(0)
