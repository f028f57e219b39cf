"""The batch loop over ONNX Runtime: any schedule, sampling, accounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cloud.conftest import slots_plan
from tests.support.loop_lab import LoopContract
from tests.support.tiny_onnx import Shape, save_model

from farthing.cloud.engine import load_engine
from farthing.inference.process.server import LoadedEngine


@pytest.fixture(scope="module", params=["slots", "its own form"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedEngine]:
    folder: Path = tmp_path_factory.mktemp("schedules")
    score_cap = 1.0 if request.param == "its own form" else 0.0
    save_model(folder, shape=Shape(head=16, context=128, score_cap=score_cap))
    loaded = load_engine(slots_plan(folder, slot_count=3))
    yield loaded
    loaded.backend.close()


class TestOrtSchedules(LoopContract):
    """All of it, over a graph in slot form and over one that keeps its own."""
