"""Starts the cloud service: settings → model → engine → servicer → server."""

from __future__ import annotations

import asyncio
import logging

from farthing.inference.serial import EngineLimits, SerialEngine

from farthing.cloud.backend_ort import OrtBackend
from farthing.cloud.plan import make_plan
from farthing.cloud.selftest import run_selftest
from farthing.cloud.settings import CloudSettings
from farthing.inference.hosting import RequestMetrics, serve_engine
from farthing.kit.process import ServiceProcess, run_service

_LOGGER = logging.getLogger("farthing.cloud")


async def serve(settings: CloudSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    plan = await asyncio.to_thread(make_plan, settings)
    await asyncio.to_thread(run_selftest, plan, settings.selftest_timeout_ms)
    backend = await asyncio.to_thread(OrtBackend, plan)
    opened = backend.opened
    if opened.why_not_cuda:
        _LOGGER.info("no CUDA, running on the CPU", extra={"finding": opened.why_not_cuda})
    _LOGGER.info(
        "model loaded",
        extra={
            "model": backend.model.name,
            "quantization": backend.model.quantization,
            "context_length": backend.model.context_length,
            "device": opened.device,
            "device_name": opened.device_name,
        },
    )
    observer = RequestMetrics(process.metrics, backend.model.name)
    engine = SerialEngine(
        backend, EngineLimits(settings.queue_capacity, settings.queue_aging_ms), observer
    )
    observer.watch(engine)
    await serve_engine(
        process,
        engine,
        discovery_name="infer-cloud",
        tier="cloud",
        meta={
            "engine": "onnxruntime",
            "quantization": backend.model.quantization,
            "device": opened.device,
            "device_name": opened.device_name,
        },
    )


def main() -> None:
    """Entry point of `python -m farthing.cloud`."""
    run_service("cloud", CloudSettings, serve)


if __name__ == "__main__":
    main()
