"""Starts the edge service: settings → model → engine → servicer → server."""

from __future__ import annotations

import asyncio
import logging
import os
from importlib.util import find_spec

from farthing.edge.loading import make_plan
from farthing.edge.plan import LoadPlan
from farthing.edge.selftest import run_selftest
from farthing.edge.settings import EdgeSettings
from farthing.inference.backend import Backend
from farthing.inference.hosting import RequestMetrics, serve_engine
from farthing.inference.serial import EngineLimits, SerialEngine
from farthing.kit.errors import FailedPrecondition
from farthing.kit.process import ServiceProcess, run_service

_LOGGER = logging.getLogger("farthing.edge")
# OpenMP's threads spin between steps. Beside other busy processes the default spinning made
# generation 3.2 times slower; this many rounds cost nothing measurable on a quiet machine.
_GOMP_SPINCOUNT = "10000"


async def serve(settings: EdgeSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    if find_spec("llama_cpp") is None:
        raise FailedPrecondition(
            "llama.cpp is not installed; run: pip install 'farthing[edge]'",
            reason="EXTRA_MISSING",
        )
    plan = await asyncio.to_thread(make_plan, settings)
    await asyncio.to_thread(run_selftest, plan, settings.selftest_timeout_ms)
    backend = await asyncio.to_thread(_load, plan)
    _LOGGER.info(
        "model loaded",
        extra={
            "model": backend.model.name,
            "quantization": backend.model.quantization,
            "context_length": backend.model.context_length,
            "thread_count": plan.thread_count,
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
        discovery_name="infer-edge",
        tier="edge",
        meta={"engine": "llama.cpp", "quantization": backend.model.quantization},
    )


def _load(plan: LoadPlan) -> Backend:
    # Imported here: OpenMP reads its variables when the library is loaded, after `main` set them.
    from farthing.edge.backend_llama import LlamaBackend

    return LlamaBackend(plan)


def main() -> None:
    """Entry point of `python -m farthing.edge`."""
    os.environ.setdefault("GOMP_SPINCOUNT", _GOMP_SPINCOUNT)
    run_service("edge", EdgeSettings, serve)


if __name__ == "__main__":
    main()
