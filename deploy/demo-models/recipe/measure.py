"""Measurement of artefacts on the held-out items, and of their agreement with PyTorch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.chat import render
from recipe.heldout import Item
from recipe.runtimes import Runtime
from recipe.scoring import judge, summarise

Answer = Callable[[list[int]], list[int]]


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file or folder that a runtime opens."""

    key: str
    path: str
    runtime: str
    dtype: str


ARTEFACTS: dict[str, tuple[Artefact, ...]] = {
    "edge-small": (
        Artefact("gguf_q8_0", "edge-small-q8_0.gguf", "llama.cpp", "Q8_0"),
        Artefact("gguf_f16", "edge-small-f16.gguf", "llama.cpp", "F16"),
        Artefact("onnx_fp32", "onnx", "onnxruntime", "F32"),
    ),
    "cloud-large": (Artefact("onnx_fp32", ".", "onnxruntime", "F32"),),
}
"""The artefacts of each model; the first is the one that is served."""


def measure_quality(runtime: Runtime, items: Sequence[Item]) -> dict[str, Any]:
    """Answer every item and return the summary, with the seconds it took."""
    started = time.monotonic()
    judgements, token_count = [], 0
    for item in items:
        ids = runtime.generate(runtime.encode(render(item["messages"])))
        token_count += len(ids)
        judgements.append(judge(item, runtime.decode(ids)))
    return {
        "task_quality": summarise(judgements),
        "token_count": token_count,
        "seconds": round(time.monotonic() - started, 1),
    }


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of `prompt_count` prompts: how many were tokenised and continued as PyTorch did."""

    prompt_count: int
    same_prompt_ids_count: int
    same_answer_count: int


def measure_agreement(runtime: Runtime, reference: Path) -> Agreement:
    """Compare greedy token ids with those in a reference_greedy.json."""
    entries = json.loads(reference.read_text(encoding="utf-8"))["sequences"]
    same_ids = same_answers = 0
    for entry in entries:
        same_ids += runtime.encode(entry["prompt"]) == entry["prompt_ids"]
        same_answers += runtime.generate(entry["prompt_ids"]) == entry["answer_ids"]
    return Agreement(len(entries), same_ids, same_answers)
