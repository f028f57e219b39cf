"""Tiny models, written once for all tests of the edge, and plans to load them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_special import write_recurrent_gguf, write_window_gguf

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.core.card import ModelCard

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "demo-models" / "edge-small"


@pytest.fixture(scope="session")
def model_paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models by name: three forms of the tiny Llama, two with states of their own kind, the demo's."""
    folder = tmp_path_factory.mktemp("tiny-models")
    return {
        "F32": write_tiny_gguf(folder / "f32.gguf", precise=True),
        "F16": write_tiny_gguf(folder / "f16.gguf", quantized=False),
        "Q8_0": write_tiny_gguf(folder / "q8_0.gguf"),
        "window": write_window_gguf(folder / "window.gguf"),
        "recurrent": write_recurrent_gguf(folder / "recurrent.gguf"),
        "demo": DEMO_FOLDER / "edge-small-f16.gguf",
    }


@pytest.fixture(scope="session")
def plan_for(model_paths: dict[str, Path]) -> Callable[..., LoadPlan]:
    """A plan of 6 slots with 256 tokens each, for a model's name and with changes."""

    def make(name: str, **changes: Any) -> LoadPlan:
        plan = LoadPlan(
            path=model_paths[name],
            name=name,
            digest="e" * 64,
            card=ModelCard(),
            context_length=256,
            thread_count=1,
            slot_count=6,
        )
        return replace(plan, **changes)

    return make


@pytest.fixture
def open_backend(
    plan_for: Callable[..., LoadPlan],
) -> Iterator[Callable[..., LlamaBatchBackend]]:
    """Loads a model by its name, with changes to the plan; closed after the test."""
    opened = []

    def open_(name: str, **changes: Any) -> LlamaBatchBackend:
        opened.append(LlamaBatchBackend(plan_for(name, **changes)))
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()
