"""One tiny model for all tests of the cloud tier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.tiny_onnx import TinyDecoder, save_model

from farthing.cloud.backend_ort import OrtBackend
from farthing.cloud.plan import LoadPlan


@dataclass(frozen=True)
class Tiny:
    """A model folder and the weights in it."""

    folder: Path
    decoder: TinyDecoder

    def plan(self, chunk: int = 16, thread_count: int = 1) -> LoadPlan:
        return LoadPlan(
            path=self.folder,
            name="tiny",
            digest="d" * 64,
            card={},
            device="cpu",
            thread_count=thread_count,
            prefill_chunk_token_count=chunk,
        )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny-onnx")
    return Tiny(folder, save_model(folder))


@pytest.fixture
def backend(tiny: Tiny) -> Iterator[OrtBackend]:
    opened = OrtBackend(tiny.plan())
    yield opened
    opened.close()
