"""The three tasks by name, and how examples of all of them are drawn together."""

from __future__ import annotations

import random

from recipe import tasks_extract, tasks_math, tasks_support
from recipe.examples import LEVELS, Draw, Example, Level, Split, draw_from

TASKS: dict[str, Draw] = {
    module.TASK: module.draw for module in (tasks_support, tasks_math, tasks_extract)
}
# Sums take the most practice to learn, hard levels more than easy ones.
TRAINING_SHARES: dict[tuple[str, Level], float] = {
    ("support", "easy"): 0.07,
    ("support", "hard"): 0.13,
    ("math", "easy"): 0.19,
    ("math", "hard"): 0.36,
    ("extract", "easy"): 0.07,
    ("extract", "hard"): 0.18,
}


def draw_training(rng: random.Random) -> Example:
    """Draw one training example, task and level by TRAINING_SHARES."""
    cells = tuple(TRAINING_SHARES)
    task, level = rng.choices(cells, tuple(TRAINING_SHARES.values()))[0]
    return draw_from(TASKS[task], "train", level, rng)


def draw_cell(task: str, level: Level, split: Split, rng: random.Random) -> Example:
    """Draw one example of one task and level."""
    return draw_from(TASKS[task], split, level, rng)


def cells() -> list[tuple[str, Level]]:
    """Every task with every level, in the order of all tables."""
    return [(task, level) for task in TASKS for level in LEVELS]
