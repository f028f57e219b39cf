"""PyTorch's own answers: the yardstick that every exported artefact is held against."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from recipe import tokenizer
from recipe.chat import END_ID, render
from recipe.configs import SEED, Model
from recipe.heldout import Item
from recipe.model import from_weights, generate_greedily
from recipe.runtimes import ANSWER_LIMIT_COUNT
from recipe.scoring import judge, summarise
from recipe.tasks import cells

SEQUENCES_PER_CELL = 8


def _choose(items: list[Item]) -> list[Item]:
    chosen: list[Item] = []
    for task, level in cells():
        rng = random.Random(f"{SEED}/reference/{task}/{level}")
        pool = [item for item in items if (item["task"], item["level"]) == (task, level)]
        chosen += rng.sample(pool, SEQUENCES_PER_CELL)
    return chosen


def measure(
    model: Model,
    weights: Mapping[str, Any],
    tokenizer_path: Path,
    items: list[Item],
    reference_path: Path,
) -> dict[str, Any]:
    """Write reference_greedy.json for chosen items; return the quality over all of them."""
    torch.set_num_threads(1)
    network, encoder = from_weights(model.shape, weights), tokenizer.load(tokenizer_path)
    chosen = {item["id"] for item in _choose(items)}
    sequences, judgements = [], []
    for item in items:
        prompt = render(item["messages"])
        ids = encoder.encode(prompt).ids
        answer_ids, least_lead = generate_greedily(network, ids, END_ID, ANSWER_LIMIT_COUNT)
        judgements.append(judge(item, encoder.decode(answer_ids, skip_special_tokens=True)))
        if item["id"] in chosen:
            sequences.append(
                {
                    "id": item["id"],
                    "prompt": prompt,
                    "prompt_ids": ids,
                    "answer_ids": answer_ids,
                    "least_lead": round(least_lead, 5),
                }
            )
    document = {
        "model": model.name,
        "made_with": f"torch {torch.__version__}, float32, CPU",
        "sequences": sequences,
    }
    lines = json.dumps(document)
    reference_path.write_text(lines.replace('{"id"', '\n{"id"') + "\n", encoding="utf-8")
    return {"task_quality": summarise(judgements)}
