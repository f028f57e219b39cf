"""Starts the edge service: settings → plan → self-test → engine in its own process → servicers → server."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from farthing.clients.principals import PrincipalResolver
from farthing.edge.engine import spawner
from farthing.edge.loading import make_plan
from farthing.edge.memory_need import check_memory
from farthing.edge.selftest import run_selftest
from farthing.edge.settings import EdgeSettings
from farthing.inference.hosting import Tier, serve_tier
from farthing.inference.residents import Prepared
from farthing.inference.store.opening import hold_model
from farthing.kit.errors import FailedPrecondition
from farthing.kit.process import ServiceProcess, run_service


def prepare(settings: EdgeSettings, model: str, name: str) -> Prepared:
    """A model that was checked, and computed a few tokens in a process of its own."""
    plan = make_plan(replace(settings, model=model, model_name=name))
    held = hold_model(settings, plan.digest)
    try:
        run_selftest(plan, settings.selftest_timeout_ms)
    except BaseException:
        held.release()
        raise
    need_bytes = check_memory(plan).total_bytes
    return Prepared(plan.name, need_bytes, spawner(plan, settings.rules()), held.release)


async def serve(settings: EdgeSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    if find_spec("llama_cpp") is None:
        raise FailedPrecondition(
            "llama.cpp is not installed; run: pip install 'farthing[edge]'",
            reason="EXTRA_MISSING",
        )
    tier = Tier(
        "edge",
        "infer-edge",
        prepare=lambda model, name: prepare(settings, model, name),
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
