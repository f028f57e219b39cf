"""What one exchange of a task is, and which exchanges training may see."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Level = Literal["easy", "hard"]
Phrasing = Literal["seen", "unseen"]
Split = Literal["train", "heldout"]

LEVELS: tuple[Level, ...] = ("easy", "hard")
# One instance in ten is kept away from training: enough to draw hundreds of items in every cell
# of task and level, and little enough not to starve training of a task's small number ranges.
HELD_OUT_ONE_IN = 10
UNSEEN_PHRASING_SHARE = 0.25
NEVER_HELD_OUT = "fact|"


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its only right answer.

    `keys` names the underlying instances: the first is the one asked about, the others are
    instances that the worked answer states on the way (a partial product, say).
    """

    task: str
    level: Level
    kind: str
    phrasing: Phrasing
    prompt: str
    answer: str
    keys: tuple[str, ...]


Draw = Callable[[random.Random, Level, Phrasing], Example]


def is_held_out(key: str) -> bool:
    """Say whether the instance `key` is kept away from training, by hash alone.

    Facts of the tables carry the `fact|` prefix and are never held out: they are to be learned
    by heart, and every longer sum is made of them.
    """
    if key.startswith(NEVER_HELD_OUT):
        return False
    digest = hashlib.sha256(f"farthing-demo-models|{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def belongs(example: Example, split: Split) -> bool:
    """Say whether `example` may appear in `split`.

    Training takes an example only if nothing in it, asked or stated on the way, is held out and
    its phrasing is a training one; the held-out set takes it if what is asked is held out.
    """
    if split == "heldout":
        return is_held_out(example.keys[0])
    return example.phrasing == "seen" and not any(is_held_out(key) for key in example.keys)


def draw_from(draw: Draw, split: Split, level: Level, rng: random.Random) -> Example:
    """Draw until an example belongs to `split`."""
    while True:
        phrasing: Phrasing = "seen"
        if split == "heldout" and rng.random() < UNSEEN_PHRASING_SHARE:
            phrasing = "unseen"
        example = draw(rng, level, phrasing)
        if belongs(example, split):
            return example
