"""The held-out items that quality is measured on, and the demo prompts drawn from them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from recipe.tasks import cells, draw_cell

ITEMS_PER_CELL = 100
PROMPTS_PER_CELL = 2

Item = dict[str, Any]


def draw_items(seed: int) -> list[Item]:
    """ITEMS_PER_CELL different items of every task and level, none of them trained on."""
    items: list[Item] = []
    for task, level in cells():
        rng = random.Random(f"{seed}/heldout/{task}/{level}")
        seen_prompts: set[str] = set()
        while len(seen_prompts) < ITEMS_PER_CELL:
            example = draw_cell(task, level, "heldout", rng)
            if example.prompt in seen_prompts:
                continue
            seen_prompts.add(example.prompt)
            items.append(
                {
                    "id": f"{task}-{level}-{len(seen_prompts):03d}",
                    "task": task,
                    "level": level,
                    "kind": example.kind,
                    "phrasing": example.phrasing,
                    "messages": [{"role": "user", "content": example.prompt}],
                    "answer": example.answer,
                    "instance": example.keys[0],
                }
            )
    return items


def choose_prompts(items: list[Item], seed: int) -> list[Item]:
    """PROMPTS_PER_CELL items of every task and level, by seed alone and before any answer."""
    chosen: list[Item] = []
    for task, level in cells():
        rng = random.Random(f"{seed}/prompts/{task}/{level}")
        pool = [item for item in items if (item["task"], item["level"]) == (task, level)]
        chosen += rng.sample(pool, PROMPTS_PER_CELL)
    fields = ("id", "task", "level", "messages")
    return [
        {**{field: item[field] for field in fields}, "expected_answer": item["answer"]}
        for item in chosen
    ]


def write(folder: Path, seed: int) -> None:
    """Write heldout.jsonl and prompts.json into `folder`."""
    items = draw_items(seed)
    lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    (folder / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")
    prompts = json.dumps(choose_prompts(items, seed), indent=2, ensure_ascii=False)
    (folder / "prompts.json").write_text(prompts + "\n", encoding="utf-8")


def read(folder: Path) -> list[Item]:
    """The items of heldout.jsonl."""
    text = (folder / "heldout.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
