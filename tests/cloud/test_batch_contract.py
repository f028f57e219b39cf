"""What every batch backend keeps to, over graphs of each kind that the cloud tier takes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cloud.conftest import DEMO, slots_plan
from tests.support.batch_backend_contract import ANSWER_COUNT, BatchBackendContract
from tests.support.tiny_gqa import save_grouped_model
from tests.support.tiny_onnx import Shape, save_model

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.quantize import QuantizationKind, quantize_onnx
from farthing.inference.batch_backend import BatchBackend

Write = Callable[[Path], Path]


def tiny(**wishes: Any) -> Write:
    def write(folder: Path) -> Path:
        save_model(folder, **wishes)
        return folder

    return write


def grouped(folder: Path) -> Path:
    save_grouped_model(folder)
    return folder


def demo(_: Path) -> Path:
    return DEMO


def quantized_demo(kind: QuantizationKind) -> Write:
    def write(folder: Path) -> Path:
        quantize_onnx(DEMO, folder / kind, kind)
        return folder / kind

    return write


KINDS: dict[str, tuple[Write, dict[str, Any]]] = {
    "rotation in the attention": (tiny(shape=Shape(head=16)), {}),
    "rotation of the graph's own": (tiny(), {}),
    "a window": (tiny(shape=Shape(head=16, window=7)), {}),
    "half precision": (tiny(dtype=np.float16, shape=Shape(head=16)), {}),
    "grouped attention from the start": (grouped, {}),
    "a graph that keeps its form": (tiny(shape=Shape(score_cap=1.0)), {}),
    "demo": (demo, {}),
    "demo with a halved cache": (demo, {"kv_type": "fp16"}),
    "demo in device tensors": (demo, {"kv_type": "fp16"}),
    "demo in int8": (quantized_demo("int8"), {}),
    "demo in dynamic int8": (quantized_demo("int8-dynamic"), {}),
    "demo in int4": (quantized_demo("int4"), {}),
}


@pytest.fixture(scope="module", params=KINDS)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OrtBatchBackend]:
    write, wishes = KINDS[request.param]
    folder = write(tmp_path_factory.mktemp("model"))
    opened = OrtBatchBackend(
        slots_plan(folder, **wishes), device_tensors="device" in request.param
    )
    assert ("own form" in opened.how) == ("keeps its form" in request.param)
    yield opened
    opened.close()


class TestOrtBatchBackend(BatchBackendContract):
    @pytest.fixture
    def prompts(self, whole: BatchBackend) -> list[list[int]]:
        """The trained model is sure of its answers to real prompts, so that rounding in other batches changes none."""
        if whole.model.vocab_size == 1024:
            known = json.loads((DEMO / "reference_greedy.json").read_text(encoding="utf-8"))
            taken = [s for s in known["sequences"] if len(s["answer_ids"]) > ANSWER_COUNT]
            return [list(sequence["prompt_ids"]) for sequence in taken[2:6]]
        drawn = random.Random(7)
        return [[drawn.randrange(1, 256) for _ in range(length)] for length in (5, 17, 33, 9)]
