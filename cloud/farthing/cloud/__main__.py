"""Starts the cloud service: settings → plan → self-test → engine in its own process → servicer → server."""

from __future__ import annotations

import asyncio
import logging

from farthing.cloud.engine import spawner
from farthing.cloud.plan import make_plan
from farthing.cloud.selftest import run_selftest
from farthing.cloud.settings import CloudSettings
from farthing.inference.host import ModelHost
from farthing.inference.hosting import RequestMetrics, serve_host, watch_engine
from farthing.inference.process.remote import RemoteEngine
from farthing.kit.process import ServiceProcess, run_service

_LOGGER = logging.getLogger("farthing.cloud")


async def serve(settings: CloudSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    plan = await asyncio.to_thread(make_plan, settings)
    await asyncio.to_thread(run_selftest, plan, settings.selftest_timeout_ms)
    engine = RemoteEngine(
        spawner(plan, settings.rules()),
        settings.patience(),
        RequestMetrics(process.metrics, plan.name),
    )
    host = ModelHost()
    await host.add(engine)
    watch_engine(process.metrics, engine)
    facts = engine.ready.facts
    if facts["why_not_cuda"]:
        _LOGGER.info("no CUDA, running on the CPU", extra={"finding": facts["why_not_cuda"]})
    _LOGGER.info(
        "model loaded",
        extra={
            "model": engine.info.name,
            "quantization": engine.info.quantization,
            "context_length": engine.info.context_length,
            "device": facts["device"],
            "device_name": facts["device_name"],
            "form": facts["form"],
        },
    )
    await serve_host(
        process,
        host,
        discovery_name="infer-cloud",
        tier="cloud",
        meta={
            "engine": "onnxruntime",
            "quantization": engine.info.quantization,
            "device": facts["device"],
            "device_name": facts["device_name"],
        },
    )


def main() -> None:
    """Entry point of `python -m farthing.cloud`."""
    run_service("cloud", CloudSettings, serve)


if __name__ == "__main__":
    main()
