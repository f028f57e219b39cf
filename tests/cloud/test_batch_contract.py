"""What every batch backend keeps to, over graphs of each kind that the cloud tier takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.batch_backend_contract import BatchBackendContract
from tests.support.tiny_onnx import Shape, save_model

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.plan import LoadPlan

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo-models" / "cloud-large"


def tiny(**wishes: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        save_model(folder, **wishes)
        return folder

    return write


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "rotation in the attention": (tiny(shape=Shape(head=16)), {}),
    "rotation of the graph's own": (tiny(), {}),
    "a graph that keeps its form": (tiny(position_ids=False), {}),
    "half precision": (tiny(dtype=np.float16, shape=Shape(head=16)), {}),
    "demo model": (lambda _: DEMO, {}),
    "halved cache": (lambda _: DEMO, {"kv_type": "fp16"}),
    "device tensors": (lambda _: DEMO, {"kv_type": "fp16"}),
}


@pytest.fixture(scope="module", params=KINDS)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OrtBatchBackend]:
    write, wishes = KINDS[request.param]
    folder = write(tmp_path_factory.mktemp("model"))
    plan = LoadPlan(
        folder, folder.name, "d" * 64, {}, device="cpu", thread_count=1, slot_count=6, **wishes
    )
    opened = OrtBatchBackend(plan, device_tensors="device" in request.param)
    yield opened
    opened.close()


class TestOrtBatchBackend(BatchBackendContract):
    """The whole suite, for each kind of graph."""
