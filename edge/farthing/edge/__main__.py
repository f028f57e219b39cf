"""Starts the edge service: settings → plan → self-test → engine in its own process → servicers → server."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
from importlib.util import find_spec

from farthing.clients.principals import PrincipalResolver
from farthing.edge.preparing import Preparing
from farthing.edge.settings import EdgeSettings
from farthing.inference.hosting import Tier, serve_tier
from farthing.kit.errors import FailedPrecondition
from farthing.kit.process import ServiceProcess, run_service


async def serve(settings: EdgeSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    if find_spec("llama_cpp") is None:
        raise FailedPrecondition(
            "llama.cpp is not installed; run: pip install 'farthing[edge]'",
            reason="EXTRA_MISSING",
        )
    preparing = Preparing(settings)
    tier = Tier(
        "edge",
        "infer-edge",
        find=preparing.find,
        prepare=preparing.prepare,
        meta=lambda engine: {
            "engine": "llama.cpp",
            "quantization": engine.info.quantization,
        },
    )
    principals = PrincipalResolver(
        process.registry.watch("quota"), region=settings.region, tls=process.tls
    )
    try:
        await serve_tier(
            settings,
            process,
            tier,
            model=settings.model,
            name=settings.model_name,
            require_admin=principals.require_admin,
        )
    finally:
        await principals.close()


def main() -> None:
    """Entry point of `python -m farthing.edge`."""
    run_service("edge", EdgeSettings, serve)


if __name__ == "__main__":
    main()
