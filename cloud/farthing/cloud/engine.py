"""The engine's own process: `python -m farthing.cloud.engine FD PLAN RULES`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from farthing.cloud.plan import LoadPlan
from farthing.cloud.settings import CloudSettings
from farthing.inference.energy import open_meter
from farthing.inference.grammar import SchemaCompiler
from farthing.inference.process.child import Child, limit_memory, serve_child, start_child
from farthing.inference.process.rules import EngineRules
from farthing.inference.process.server import LoadedEngine
from farthing.kit.settings import load
from farthing.kit.telemetry import logs

# What the interpreter and its libraries take beside weights and slots.
_BASE_BYTES = 1 << 30


def spawner(plan: LoadPlan, rules: EngineRules) -> Callable[[], Child]:
    """Starts the process of an engine with this model, any number of times."""
    arguments = [plan.to_json(), rules.to_json()]
    environment = {"ORT_DISABLE_TELEMETRY": "1"}
    return lambda: start_child("farthing.cloud.engine", arguments, environment)


def load_engine(plan: LoadPlan) -> LoadedEngine:
    """The model of a plan, ready to compute. Raises a FarthingError that says what is wrong with it."""
    # Imported here: the service's own process plans and spawns, and needs neither numpy nor ONNX Runtime for that.
    from farthing.cloud.batch_backend import OrtBatchBackend

    backend = OrtBatchBackend(plan)
    opened = backend.opened
    energy = open_meter(opened.device)
    return LoadedEngine(
        backend,
        backend.codec,
        constrain=SchemaCompiler(backend.model, backend.codec).constrain,
        weights_bytes=backend.weights_bytes,
        energy=energy,
        facts={
            "device": opened.device,
            "device_name": opened.device_name,
            "why_not_cuda": opened.why_not_cuda,
            "form": backend.how,
            "energy_meter": energy.source if energy else "none",
        },
    )


def main(descriptor: int, plan: LoadPlan, rules: EngineRules) -> None:
    """The life of the process."""
    logs.configure(load(CloudSettings, os.environ), service="cloud-engine")
    limit_bytes = plan.memory_limit_bytes and plan.memory_limit_bytes + _BASE_BYTES

    def load_limited() -> LoadedEngine:
        engine = load_engine(plan)
        if limit_bytes and engine.facts["device"] == "cpu":
            limit_memory(limit_bytes)
        return engine

    # CUDA's own mappings would count too, whatever memory they are of. Where it may yet come up, the limit waits.
    before_bytes = limit_bytes if plan.device == "cpu" else 0
    serve_child(descriptor, load_limited, rules, memory_limit_bytes=before_bytes)


if __name__ == "__main__":
    main(int(sys.argv[1]), LoadPlan.from_json(sys.argv[2]), EngineRules.from_json(sys.argv[3]))
