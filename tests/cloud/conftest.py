"""One tiny model for all tests of the cloud tier, and ways to make others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny_onnx import TinyDecoder, save_model

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.plan import LoadPlan
from farthing.inference.batch_backend import SlotWork
from farthing.inference.core.card import ModelCard

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo-models" / "cloud-large"
# Of several lengths.
PROMPTS = [
    [5, 9, 200, 17, 3, 88],
    [44, 250, 61],
    [7, 19, 33, 140, 76, 90, 101],
    [8, 8, 120, 5, 31, 60, 2, 9, 77, 30, 12],
]


@dataclass(frozen=True)
class Tiny:
    """A model folder and the weights in it."""

    folder: Path
    decoder: TinyDecoder

    def plan(self, **wishes: Any) -> LoadPlan:
        wishes = {"slot_count": 4, "step_token_capacity": 20, "thread_count": 1, **wishes}
        return LoadPlan(self.folder, "tiny", "d" * 64, ModelCard(), device="cpu", **wishes)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny-onnx")
    return Tiny(folder, save_model(folder))


def slots_plan(folder: Path, **wishes: Any) -> LoadPlan:
    """A plan for the batch backend on one thread."""
    wishes = {"slot_count": 6, "thread_count": 1, **wishes}
    return LoadPlan(folder, folder.name, "d" * 64, ModelCard(), device="cpu", **wishes)


def greedy_together(
    backend: OrtBatchBackend, prompts: list[list[int]], count: int
) -> list[list[int]]:
    """The likeliest continuations of as many prompts as there are slots or fewer, an end token included."""
    backend.reset()
    first = backend.step([SlotWork(slot, 0, prompt) for slot, prompt in enumerate(prompts)])
    answers = [[int(token)] for token in first.best()]
    while True:
        work = [
            SlotWork(slot, len(prompts[slot]) + len(answer) - 1, answer[-1:])
            for slot, answer in enumerate(answers)
            if len(answer) < count and answer[-1] not in backend.model.eos_ids
        ]
        if not work:
            return answers
        for one, token in zip(work, backend.step(work).best(), strict=True):
            answers[one.slot].append(int(token))
