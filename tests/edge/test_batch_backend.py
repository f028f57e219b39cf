from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.batch_backend_contract import BatchBackendContract
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_special import write_recurrent_gguf, write_window_gguf

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.core.card import ModelCard

DEMO_MODEL = Path(__file__).resolve().parents[2] / "deploy/demo-models/edge-small"


@pytest.fixture(scope="module")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny-F16": write_tiny_gguf(folder / "f16.gguf", quantized=False),
        "tiny-Q8_0": write_tiny_gguf(folder / "q8_0.gguf"),
        "demo": DEMO_MODEL / "edge-small-f16.gguf",
        "window": write_window_gguf(folder / "window.gguf"),
        "recurrent": write_recurrent_gguf(folder / "recurrent.gguf"),
    }


def plan_for(path: Path) -> LoadPlan:
    return LoadPlan(path, "tiny", "e" * 64, ModelCard(), 256, 1, 16, slot_count=6)


@pytest.fixture(
    scope="module", params=["tiny-F16", "tiny-F16-shared", "tiny-Q8_0", "demo", "demo-shared", "window", "recurrent", "recurrent-shared"]
)
def backend(
    request: pytest.FixtureRequest, model_paths: dict[str, Path]
) -> Iterator[LlamaBatchBackend]:
    name, _, shared = request.param.partition("-shared")
    plan = replace(plan_for(model_paths[name]), shared_kv=request.param.endswith("shared"))
    backend = LlamaBatchBackend(plan)
    yield backend
    backend.close()


class TestLlamaBatchBackend(BatchBackendContract):
    pass
