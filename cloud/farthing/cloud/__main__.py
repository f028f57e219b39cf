"""Starts the cloud service: settings → plan → self-test → engine in its own process → servicers → server."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
import logging
from collections.abc import Mapping
from dataclasses import replace

from farthing.clients.principals import PrincipalResolver
from farthing.cloud.engine import spawner
from farthing.cloud.plan import estimate_need_bytes, find_model, make_plan
from farthing.cloud.selftest import run_selftest
from farthing.cloud.settings import CloudSettings
from farthing.inference.hosting import Tier, serve_tier
from farthing.inference.process.remote import RemoteEngine
from farthing.inference.residents import Prepared
from farthing.inference.store.contents import StoredModel
from farthing.inference.store.opening import hold_model
from farthing.kit.process import ServiceProcess, run_service

_LOGGER = logging.getLogger("farthing.cloud")


def prepare(settings: CloudSettings, stored: StoredModel, name: str) -> Prepared:
    """A model that was checked, and computed a few tokens in a process of its own."""
    plan = make_plan(replace(settings, model_name=name), stored)
    held = hold_model(settings, plan.digest)
    try:
        run_selftest(plan, settings.selftest_timeout_ms)
    except BaseException:
        held.release()
        raise
    return Prepared(
        plan.name,
        estimate_need_bytes(plan),
        spawner(plan, settings.rules()),
        held.release,
        plan.card.canaries,
    )


async def serve(settings: CloudSettings, process: ServiceProcess) -> None:
    """Loads the model and serves it until a signal comes."""
    tier = Tier(
        "cloud",
        "infer-cloud",
        find=lambda: find_model(settings),
        prepare=lambda stored, name: prepare(settings, stored, name),
        meta=_meta,
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


def _meta(engine: RemoteEngine) -> Mapping[str, str]:
    facts = engine.ready.facts
    if facts["why_not_cuda"]:
        _LOGGER.info("no CUDA, running on the CPU", extra={"finding": facts["why_not_cuda"]})
    return {
        "engine": "onnxruntime",
        "quantization": engine.info.quantization,
        "device": facts["device"],
        "device_name": facts["device_name"],
    }


def main() -> None:
    """Entry point of `python -m farthing.cloud`."""
    run_service("cloud", CloudSettings, serve)


if __name__ == "__main__":
    main()
