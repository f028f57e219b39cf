"""Fills one step: every row that generates gets its token, and what time is left goes to prompts."""

from __future__ import annotations

from collections.abc import Sequence

from farthing.inference.core.cost_model import StepSize, Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.budget import StepTargets, chunk_count, fits
from farthing.inference.core.schedule.row import Row
from farthing.inference.core.schedule.values import Work

# A row that gives way to better classes gets a step all the same after so many.
_MOST_STEPS_LEFT_OUT = 16
_CLASS_WEIGHT = {Priority.INTERACTIVE: 4, Priority.STANDARD: 2, Priority.BATCH: 1}
_NOTHING = StepSize(0, 0, 0)


def choose_adapter(rows: Sequence[Row], step: int) -> str:
    """The adapter whose rows compute next: a step has one. They take turns, better classes more often."""
    scores: dict[str, int] = {}
    for row in rows:
        score = (step - row.last_step) * _CLASS_WEIGHT[row.priority]
        scores[row.adapter] = max(scores.get(row.adapter, 0), score)
    return max(sorted(scores), key=scores.__getitem__, default="")


def fill_step(
    rows: Sequence[Row], weights: Weights, targets: StepTargets, *, capacity: int, step: int
) -> list[Work]:
    """Work of one step for rows of one adapter, at most `capacity` tokens, by slot."""
    generating = sorted(
        (row for row in rows if row.is_decoding), key=lambda row: (row.priority, row.slot)
    )
    prompts = sorted(
        (row for row in rows if not row.is_decoding), key=lambda row: (row.rank, row.slot_turn)
    )
    best = min((row.priority for row in rows), default=Priority.BATCH)
    target_us = targets.of(best)
    # Where nobody of the best class generates yet, its prompts go before all others; they are cut to what those bear.
    alone = not generating or generating[0].priority > best
    prompt_target_us = targets.of(generating[0].priority) if generating else targets.batch_us
    size, work = _NOTHING, list[Work]()

    def add_prompt(row: Row, most_us: int) -> None:
        nonlocal size, capacity
        wanted = min(row.pending_count, capacity)
        count = chunk_count(weights, size, wanted, row.held_count, most_us)
        samples = count == row.pending_count
        work.append(Work(row.row_id, row.slot, row.held_count, count, 0, samples))
        size = size.plus(StepSize(count, 0, count * row.held_count))
        capacity -= count

    if alone and generating:
        for row in [row for row in prompts if row.priority == best]:
            if capacity and (not work or fits(weights, size, _NOTHING, target_us)):
                add_prompt(row, prompt_target_us)
            prompts.remove(row)
    has_hurry = bool(work)
    for row in generating:
        one = StepSize(0, 1, row.held_count)
        waits = row.priority > best and step - row.last_step <= _MOST_STEPS_LEFT_OUT
        if not capacity or (waits and not fits(weights, size, one, target_us)):
            continue
        draft_count = _draft_count(row, weights, size.plus(one), target_us, capacity - 1)
        count = 1 + draft_count
        work.append(Work(row.row_id, row.slot, row.held_count, count, draft_count, True))
        size = size.plus(StepSize(0, count, count * row.held_count))
        capacity -= count
    first = not has_hurry
    for row in prompts:
        if not capacity or not (first or fits(weights, size, _NOTHING, target_us)):
            break
        add_prompt(row, target_us if generating else prompt_target_us)
        first = False
    return sorted(work, key=lambda one: one.slot)


def _draft_count(
    row: Row, weights: Weights, size: StepSize, target_us: int, capacity: int
) -> int:
    """Guesses are computed only where they delay nobody beyond the target and cannot pass the row's end."""
    count = min(row.draft_count, row.left_count - 1, capacity)
    while count > 0:
        if fits(weights, size, StepSize(0, count, count * row.held_count), target_us):
            return count
        count -= 1
    return 0
