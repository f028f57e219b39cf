"""Training of one model on the drawn conversations, within a wall time, on one core of a CPU."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipe import dataset
from recipe.chat import ASSISTANT_ID, SYSTEM_ID
from recipe.configs import FALL_RATIO, SEED, Model, Training
from recipe.model import Llama, export_weights

LOG_EVERY_STEP_COUNT = 250
SAVE_EVERY_S = 120.0
AVERAGE_STEP_COUNT = 200
ANSWER_SHARE_MARGIN = 1.08
LONGEST_SHARE = 0.04  # of all batches; at 1024 tokens a step takes five times as long


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a run may go: after `seconds` it ends, its learning rate run down to nothing."""

    seconds: float | None = None
    batch_token_count: int | None = None


def answer_mask(ids: Tensor) -> Tensor:
    """True where a token is part of an assistant's answer, its end marker included."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
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
    """Rows of one length at a time, lengths as frequent as their share of all tokens.

    The longest rows, whole conversations, are an exception: see LONGEST_SHARE.
    """

    def __init__(self, rows: dict[int, Any], batch_token_count: int) -> None:
        self.rows = {length: torch.from_numpy(part) for length, part in rows.items()}
        self.lengths = list(self.rows)
        token_counts = np.array([self.rows[length].numel() for length in self.lengths], float)
        self.shares = (1 - LONGEST_SHARE) * token_counts / token_counts[:-1].sum()
        self.shares[-1] = LONGEST_SHARE
        self.batch_token_count = batch_token_count
        self.random = np.random.default_rng(SEED)
        # Answers are gathered into a fixed count per length, so that a step compiles once.
        self.answer_counts = {
            length: math.ceil(
                ANSWER_SHARE_MARGIN
                * float((targets_of(part[:2000].long()) != dataset.PADDING).float().mean())
                * max(1, batch_token_count // length)
                * length
            )
            for length, part in self.rows.items()
        }

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [rows, length], flat positions to predict after, and the tokens that follow."""
        length = self.lengths[self.random.choice(len(self.lengths), p=self.shares)]
        rows = self.rows[length]
        row_count = max(1, self.batch_token_count // length)
        ids = rows[torch.from_numpy(self.random.integers(len(rows), size=row_count))].long()
        targets = targets_of(ids).flatten()
        count = self.answer_counts[length]
        places = (targets != dataset.PADDING).nonzero().flatten()[:count]
        places = functional.pad(places, (0, count - len(places)))
        chosen = targets[places]
        return ids.clamp(min=0), places, chosen


def learning_rate(step: int, progress: float, training: Training) -> float:
    """The rate at `step`, when `progress` (0..1) of the time is over."""
    warm = min(1.0, (step + 1) / training.warmup_step_count)
    return training.peak_learning_rate * min(warm, (1 - progress) / FALL_RATIO, 1.0)


class Optimizers:
    """Muon for the matrices of the blocks, AdamW for embeddings, output and norms."""

    def __init__(self, network: Llama, training: Training) -> None:
        matrices = [p for p in network.layers.parameters() if p.dim() > 1]
        taken = {id(p) for p in matrices}
        others = [p for p in network.parameters() if id(p) not in taken]
        self.all: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices,
                lr=training.peak_learning_rate,
                weight_decay=training.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.dim() > 1]},
                    {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
                ],
                lr=training.peak_learning_rate,
                betas=(0.9, 0.98),
                weight_decay=training.weight_decay,
                fused=True,
            ),
        )

    def step(self, rate: float) -> None:
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Run:
    """One training run: what it holds can be saved, and taken up again after a stop."""

    def __init__(self, model: Model, data_folder: Path, folder: Path, limits: Limits) -> None:
        torch.manual_seed(SEED)
        self.model, self.folder, settings = model, folder, model.training
        self.seconds = limits.seconds or settings.seconds
        self.network, self.average = Llama(model.shape), Llama(model.shape)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizers = Optimizers(self.network, settings)
        self.batches = Batches(
            dataset.read(data_folder), limits.batch_token_count or settings.batch_token_count
        )
        self.step, self.elapsed_s = 0, 0.0
        self.compiled = torch.compile(self._loss, dynamic=False)

    def _loss(self, ids: Tensor, places: Tensor, targets: Tensor) -> Tensor:
        hidden, _ = self.network.hidden_states(ids)
        logits = self.network.lm_head(hidden.flatten(0, 1)[places])
        return functional.cross_entropy(logits.float(), targets, ignore_index=dataset.PADDING)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the running average, which is what is exported, towards the weights."""
        share = max(1 / AVERAGE_STEP_COUNT, 1 / (self.step + 1))
        torch._foreach_lerp_(
            list(self.average.parameters()), list(self.network.parameters()), share
        )

    def advance(self) -> Tensor:
        """One step; returns its loss."""
        with torch.autocast("cpu", torch.bfloat16):
            loss: Tensor = self.compiled(*self.batches.draw())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), self.model.training.gradient_clip
        )
        rate = learning_rate(self.step, self.elapsed_s / self.seconds, self.model.training)
        self.optimizers.step(rate)
        self._follow()
        self.step += 1
        return loss.detach()

    def save(self) -> None:
        """Write the averaged weights for the exporters, and all that a restart needs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / "weights.npz", **export_weights(self.average))
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.all],
            "random": self.batches.random.bit_generator.state,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        unfinished = self.folder / "checkpoint.pt.new"
        torch.save(state, unfinished)
        unfinished.rename(self.folder / "checkpoint.pt")

    def restore(self) -> None:
        """Take up the run that was saved in the folder, if there is one."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers.all, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.batches.random.bit_generator.state = state["random"]
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]


def train(model: Model, data_folder: Path, folder: Path, limits: Limits) -> dict[str, Any]:
    """Train `model`; leave its weights in `folder` and return what was done.

    A checkpoint in `folder` is taken up again, with the time it had left; it is removed at the
    end, so that the next run starts anew.
    """
    torch.set_num_threads(1)
    run = Run(model, data_folder, folder, limits)
    run.restore()
    last_time, last_saved = time.monotonic(), time.monotonic()
    losses: list[Tensor] = []
    while run.elapsed_s < run.seconds:
        losses.append(run.advance())
        now = time.monotonic()
        run.elapsed_s += now - last_time
        last_time = now
        if run.step % LOG_EVERY_STEP_COUNT == 0:
            mean = float(torch.stack(losses[-LOG_EVERY_STEP_COUNT:]).mean())
            print(
                f"{model.name}: step {run.step} loss {mean:.4f} {run.elapsed_s:.0f} s",
                flush=True,
            )
        if now - last_saved >= SAVE_EVERY_S:
            run.save()
            last_saved = now
    run.save()
    (folder / "checkpoint.pt").unlink()
    return {
        "device": "cpu, 1 thread, bfloat16 products",
        "torch": torch.__version__,
        "seed": SEED,
        "step_count": run.step,
        "batch_token_count": run.batches.batch_token_count,
        "row_count": {str(length): len(rows) for length, rows in run.batches.rows.items()},
        "seconds": round(run.elapsed_s, 1),
        "final_loss": round(float(torch.stack(losses[-LOG_EVERY_STEP_COUNT:]).mean()), 4),
    }
