"""Steps of no consequence before the first request, so that it is not the slow one, and what a step costs is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from farthing.inference.batch_backend import BatchBackend, SlotWork
from farthing.inference.core.cost_model import CostModel, StepSize


def warm_up(backend: BatchBackend, costs: CostModel, now_ns: Callable[[], int]) -> None:
    """Compute prompts and rows of several sizes, and fit the costs to them. Slots are empty afterwards."""
    layout, vocab = backend.layout, backend.model
    token = next(one for one in range(vocab.vocab_size) if one not in vocab.eos_ids)
    most = min(layout.step_token_capacity, layout.slot_token_capacity - 8)
    for number in range(3):
        # The first round reads weights from disk.
        time_step = partial(_time_step, backend, costs if number > 0 else None, now_ns)
        for prompt_count in (most, max(1, most // 4), 1):
            time_step([SlotWork(0, 0, [token] * prompt_count)])
        time_step([SlotWork(0, 0, [token] * most)])
        for place in range(most, most + 4):
            time_step([SlotWork(0, place, [token])])
        for row_count in (2, 4, 8):
            slots = range(min(row_count, layout.slot_count))
            time_step([SlotWork(slot, 0, [token]) for slot in slots])
            time_step([SlotWork(slot, 1, [token]) for slot in slots])
    backend.reset()


def _time_step(
    backend: BatchBackend,
    costs: CostModel | None,
    now_ns: Callable[[], int],
    work: list[SlotWork],
) -> None:
    started_ns = now_ns()
    backend.step(work).best()
    duration_us = (now_ns() - started_ns) // 1000
    size = StepSize(0, 0, 0)
    for one in work:
        count = len(one.tokens)
        prefill = count if one.start == 0 else 0
        size = size.plus(StepSize(prefill, count - prefill, count * one.start))
    if costs is not None:
        costs.add(size, duration_us)
