"""Starts the edge service: settings → plan → self-test → engine in its own process → servicer → server."""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec

from farthing.edge.engine import spawner
from farthing.edge.loading import make_plan
from farthing.edge.selftest import run_selftest
from farthing.edge.settings import EdgeSettings
from farthing.inference.host import ModelHost
from farthing.inference.hosting import RequestMetrics, serve_host, watch_engine
from farthing.inference.process.remote import RemoteEngine
from farthing.kit.errors import FailedPrecondition
from farthing.kit.process import ServiceProcess, run_service

_LOGGER = logging.getLogger("farthing.edge")


async def serve(settings: EdgeSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    if find_spec("llama_cpp") is None:
        raise FailedPrecondition(
            "llama.cpp is not installed; run: pip install 'farthing[edge]'",
            reason="EXTRA_MISSING",
        )
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
    _LOGGER.info(
        "model loaded",
        extra={
            "model": engine.info.name,
            "quantization": engine.info.quantization,
            "context_length": engine.info.context_length,
            "slot_count": plan.slot_count,
            **engine.ready.facts,
        },
    )
    await serve_host(
        process,
        host,
        discovery_name="infer-edge",
        tier="edge",
        meta={"engine": "llama.cpp", "quantization": engine.info.quantization},
    )


def main() -> None:
    """Entry point of `python -m farthing.edge`."""
    run_service("edge", EdgeSettings, serve)


if __name__ == "__main__":
    main()
