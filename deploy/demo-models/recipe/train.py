"""Training of one model on the drawn conversations, on a GPU or (slowly) on a CPU."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipe import dataset
from recipe.chat import ASSISTANT_ID, SYSTEM_ID
from recipe.configs import SEED, Model
from recipe.model import Llama, export_weights

LOG_EVERY_STEP_COUNT = 250


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a run may go: after `seconds` (0 for no limit) it ends, its schedule run down."""

    seconds: float = 0.0
    step_count: int | None = None
    batch_token_count: int | None = None


def answer_mask(ids: Tensor) -> Tensor:
    """True where a token is part of an assistant's answer, its end marker included."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    is_marker = (ids >= SYSTEM_ID) & (ids <= ASSISTANT_ID)
    last_marker = torch.where(is_marker, positions, -1).cummax(1).values
    role = ids.gather(1, last_marker.clamp(min=0))
    return (role == ASSISTANT_ID) & ~is_marker & (ids != dataset.PADDING)


def targets_of(ids: Tensor) -> Tensor:
    """What to predict at each position: the next token if it is an answer's, else PADDING."""
    targets = torch.where(answer_mask(ids), ids, dataset.PADDING).roll(-1, 1)
    targets[:, -1] = dataset.PADDING
    return targets


class Batches:
    """Rows of one length at a time, lengths as frequent as their share of all tokens."""

    def __init__(self, rows: dict[int, Any], device: str, batch_token_count: int) -> None:
        self.rows = {length: torch.from_numpy(part).to(device) for length, part in rows.items()}
        self.lengths = list(self.rows)
        token_counts = np.array([self.rows[length].numel() for length in self.lengths], float)
        self.shares = token_counts / token_counts.sum()
        self.device, self.batch_token_count = device, batch_token_count
        self.random = np.random.default_rng(SEED)
        self.generator = torch.Generator(device).manual_seed(SEED)

    def of_length(self, length: int) -> Tensor:
        rows = self.rows[length]
        row_count = max(1, self.batch_token_count // length)
        chosen = torch.randint(
            len(rows), (row_count,), generator=self.generator, device=self.device
        )
        return rows[chosen].long()

    def draw(self) -> Tensor:
        return self.of_length(
            self.lengths[self.random.choice(len(self.lengths), p=self.shares)]
        )


def learning_rate(step: int, progress: float, model: Model) -> float:
    """The rate at `step`: a linear warm-up within half a cosine down to nothing.

    `progress` (0..1) is how much of the run is over, by steps or by the clock.
    """
    warm = min(1.0, (step + 1) / model.training.warmup_step_count)
    return model.training.peak_learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(network: torch.nn.Module, model: Model, device: str) -> torch.optim.AdamW:
    decayed = [p for p in network.parameters() if p.dim() > 1]
    plain = [p for p in network.parameters() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": model.training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=model.training.peak_learning_rate, betas=(0.9, 0.98), fused=device == "cuda"
    )


def train(model: Model, data_folder: Path, output: Path, limits: Limits) -> dict[str, Any]:
    """Train `model`; write its weights to `output` (.npz) and return what was done."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    started = time.monotonic()
    settings = model.training
    network = Llama(model.shape).to(device)
    batches = Batches(
        dataset.read(data_folder),
        device,
        limits.batch_token_count or settings.batch_token_count,
    )
    optimizer = _optimizer(network, model, device)
    half = torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext()

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        logits, _ = network(inputs)
        return functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=dataset.PADDING
        )

    compiled = torch.compile(loss_of, dynamic=False) if device == "cuda" else loss_of

    def advance(ids: Tensor, rate: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate
        with half:
            loss = compiled(ids.clamp(min=0), targets_of(ids))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
        optimizer.step()
        return loss.detach()

    if device == "cuda":  # compile for every length before the first step that counts
        for length in batches.lengths:
            advance(batches.of_length(length), 0.0)
        torch.cuda.synchronize()
    print(f"{model.name}: ready after {time.monotonic() - started:.0f} s", flush=True)

    step_count = limits.step_count or settings.step_count
    step, progress, last_loss = 0, 0.0, math.nan
    while progress < 1:
        loss = advance(batches.draw(), learning_rate(step, progress, model))
        step += 1
        elapsed_s = time.monotonic() - started
        progress = max(step / step_count, elapsed_s / limits.seconds if limits.seconds else 0.0)
        if step % LOG_EVERY_STEP_COUNT == 0 or progress >= 1:
            last_loss = float(loss)
            print(
                f"{model.name}: step {step} loss {last_loss:.4f} {elapsed_s:.0f} s", flush=True
            )

    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(output, **export_weights(network))
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "seed": SEED,
        "step_count": step,
        "batch_token_count": batches.batch_token_count,
        "row_count": {str(length): len(rows) for length, rows in batches.rows.items()},
        "seconds": round(time.monotonic() - started, 1),
        "final_loss": round(last_loss, 4),
    }
