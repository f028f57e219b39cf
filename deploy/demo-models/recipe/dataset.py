"""Training conversations as rows of token ids, one array per length bucket."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipe import tokenizer
from recipe.chat import render
from recipe.tasks import draw_training

BUCKET_LENGTHS = (56, 88, 136, 208, 1024)
PADDING = -1
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You answer customers of an online shop.",
    "You are a patient tutor.",
    "Answer briefly and exactly.",
    "You turn text into JSON.",
    "Be polite and precise.",
)
SYSTEM_PROMPT_SHARE = 0.2
LONG_CONVERSATION_SHARE = 0.008  # of conversations; about a tenth of all tokens
SHARD_CONVERSATION_COUNT = 20_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's share: enough to draw it again on any machine."""

    seed: int
    index: int
    tokenizer_path: str
    folder: str


def _conversation(rng: random.Random, exchange_count: int) -> str:
    messages: list[dict[str, str]] = []
    if rng.random() < SYSTEM_PROMPT_SHARE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    for _ in range(exchange_count):
        example = draw_training(rng)
        messages.append({"role": "user", "content": example.prompt})
        messages.append({"role": "assistant", "content": example.answer})
    return render(messages, open_turn=False)


def _write_shard(shard: Shard) -> dict[int, int]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rng = random.Random(f"{shard.seed}/conversations/{shard.index}")
    encoder = tokenizer.load(Path(shard.tokenizer_path))
    texts = [
        _conversation(rng, rng.randint(3, 11) if rng.random() < LONG_CONVERSATION_SHARE else 1)
        for _ in range(SHARD_CONVERSATION_COUNT)
    ]
    rows: dict[int, list[Any]] = {length: [] for length in BUCKET_LENGTHS}
    for start in range(0, len(texts), 1000):
        for encoding in encoder.encode_batch_fast(texts[start : start + 1000]):
            ids = encoding.ids
            bucket = next((b for b in BUCKET_LENGTHS if len(ids) <= b), None)
            if bucket is not None:
                row = np.full(bucket, PADDING, np.int16)
                row[: len(ids)] = ids
                rows[bucket].append(row)
    counts = {}
    for bucket, bucket_rows in rows.items():
        counts[bucket] = len(bucket_rows)
        if bucket_rows:
            np.save(
                Path(shard.folder) / f"{bucket}-{shard.index:05d}.npy", np.stack(bucket_rows)
            )
    return counts


def build(
    folder: Path, tokenizer_path: Path, seed: int, shard_count: int, worker_count: int
) -> dict[int, int]:
    """Draw `shard_count` shards into `folder`; return how many rows each bucket received."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        Shard(seed, index, str(tokenizer_path), str(folder)) for index in range(shard_count)
    ]
    totals = dict.fromkeys(BUCKET_LENGTHS, 0)
    with multiprocessing.get_context("spawn").Pool(worker_count) as pool:
        for counts in pool.imap_unordered(_write_shard, shards):
            for bucket, count in counts.items():
                totals[bucket] += count
    (folder / "rows.json").write_text(json.dumps(totals))
    return totals


def read(folder: Path) -> dict[int, Any]:
    """All rows in `folder` by bucket length, int16, padded with PADDING."""
    buckets = {}
    for bucket in BUCKET_LENGTHS:
        parts = [np.load(path) for path in sorted(folder.glob(f"{bucket}-*.npy"))]
        if parts:
            buckets[bucket] = np.concatenate(parts)
    return buckets
