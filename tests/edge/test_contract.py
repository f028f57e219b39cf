from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.inference_contract import InferenceContract
from tests.support.tiny_gguf import write_tiny_gguf

from farthing.edge.backend_llama import LlamaBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.core.card import ModelCard


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


class TestLlamaBackend(InferenceContract):
    @pytest.fixture
    def backend(self, model_path: Path) -> LlamaBackend:
        return LlamaBackend(
            LoadPlan(
                path=model_path,
                name="tiny",
                digest="e" * 64,
                card=ModelCard(),
                context_length=512,
                thread_count=1,
                prefill_chunk_token_count=32,
            )
        )
