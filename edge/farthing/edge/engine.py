"""The engine's own process: `python -m farthing.edge.engine FD PLAN RULES`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from farthing.edge.plan import LoadPlan
from farthing.edge.settings import EdgeSettings
from farthing.inference.energy import open_meter
from farthing.inference.grammar import SchemaCompiler
from farthing.inference.process.child import Child, serve_child, start_child
from farthing.inference.process.rules import EngineRules
from farthing.inference.process.server import LoadedEngine
from farthing.kit.settings import load
from farthing.kit.telemetry import logs

# OpenMP's threads spin between steps. Beside other busy processes the default spinning made
# generation 3.2 times slower; this many rounds cost nothing measurable on a quiet machine.
_GOMP_SPINCOUNT = "10000"
# What the interpreter and its libraries take beside the model.
_BASE_BYTES = 512 << 20


def spawner(plan: LoadPlan, rules: EngineRules) -> Callable[[], Child]:
    """Starts the process of an engine with this model, any number of times."""
    environment = {
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", _GOMP_SPINCOUNT),
        "GGML_NO_BACKTRACE": "1",  # which would wait for a debugger
    }
    arguments = [plan.to_json(), rules.to_json()]
    return lambda: start_child("farthing.edge.engine", arguments, environment)


def load_engine(plan: LoadPlan) -> LoadedEngine:
    """The model of a plan, ready to compute. Raises FailedPrecondition."""
    # Imported here: OpenMP reads its variables when the library is loaded.
    from farthing.edge.batch_backend import LlamaBatchBackend
    from farthing.edge.embedder import LlamaEmbedder

    backend = LlamaBatchBackend(plan)
    energy = open_meter("cpu")
    embedder = None
    if plan.embedding_context_length:
        embedder = LlamaEmbedder(
            backend.weights,
            context_length=plan.embedding_context_length,
            thread_count=plan.thread_count,
        )
    return LoadedEngine(
        backend,
        backend.codec,
        constrain=SchemaCompiler(backend.model, backend.codec).constrain,
        embedder=embedder,
        weights_bytes=backend.weights_bytes,
        energy=energy,
        facts={
            "device": "cpu",
            "thread_count": str(plan.thread_count),
            "energy_meter": energy.source if energy else "none",
        },
    )


def main(descriptor: int, plan: LoadPlan, rules: EngineRules) -> None:
    """The life of the process."""
    logs.configure(load(EdgeSettings, os.environ), service="edge-engine")
    limit_bytes = plan.memory_limit_bytes
    serve_child(
        descriptor,
        lambda: load_engine(plan),
        rules,
        memory_limit_bytes=limit_bytes and limit_bytes + _BASE_BYTES,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), LoadPlan.from_json(sys.argv[2]), EngineRules.from_json(sys.argv[3]))
