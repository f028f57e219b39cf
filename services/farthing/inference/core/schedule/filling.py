"""Fills one step: every row that generates gets its token, and what time is left goes to prompts.

A step that ends a prompt of the best class, and so brings its first token, is kept short: rows of worse classes are
left out of it, which costs them next to nothing, for prompts are computed at full speed by themselves.
"""

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
    best = min((row.priority for row in rows), default=Priority.BATCH)
    generating = sorted(
        (row for row in rows if row.is_decoding), key=lambda row: (row.priority, row.slot)
    )
    prompts = sorted(
        (row for row in rows if not row.is_decoding), key=lambda row: (row.rank, row.slot_turn)
    )
    filled = _Step(weights, targets.of(best), capacity)
    # Where nobody of the best class generates yet, its prompts are cut to what those bear who do.
    alone = not generating or generating[0].priority > best
    bearable_us = targets.of(generating[0].priority) if generating else targets.batch_us
    for row in generating:
        if row.priority == best:
            filled.add_tokens(row)
    later = list[Row]()
    for row in prompts:
        if generating and row.priority == best and (alone or filled.ends(row)):
            filled.add_prompt(row, bearable_us if alone else filled.target_us)
        else:
            later.append(row)
    ends_prompt = filled.ends_prompt
    for row in generating:
        if row.priority > best:
            may_wait = step - row.last_step <= _MOST_STEPS_LEFT_OUT
            if not may_wait or not (ends_prompt or filled.is_over_with(row)):
                filled.add_tokens(row)
    for row in later:
        if row.priority == best or not ends_prompt:
            filled.add_prompt(row, filled.target_us if generating else bearable_us)
    return sorted(filled.work, key=lambda one: one.slot)


class _Step:
    """What has been put into a step so far. One prompt is always taken, others while there is time."""

    def __init__(self, weights: Weights, target_us: int, capacity: int) -> None:
        self.target_us, self.work = target_us, list[Work]()
        self.ends_prompt = False  # somebody's first token comes of it
        self._weights, self._capacity = weights, capacity
        self._size, self._has_prompt = _NOTHING, False

    def add_tokens(self, row: Row) -> None:
        """The next token of a row that generates, and its guesses."""
        if self._capacity:
            draft_count = self._draft_count(row)
            self._add(row, 1 + draft_count, StepSize(0, 1 + draft_count, 0), draft_count, True)

    def add_prompt(self, row: Row, most_us: int) -> None:
        """As much of a prompt as makes a step of `most_us`."""
        is_over = self._has_prompt and not fits(
            self._weights, self._size, _NOTHING, self.target_us
        )
        if not self._capacity or is_over:
            return
        wanted = min(row.pending_count, self._capacity)
        count = chunk_count(self._weights, self._size, wanted, row.held_count, most_us)
        samples = count == row.pending_count
        self._add(row, count, StepSize(count, 0, 0), 0, samples)
        self._has_prompt = True
        self.ends_prompt = self.ends_prompt or samples

    def ends(self, row: Row) -> bool:
        """Whether all that is left of a prompt still goes into the step."""
        wanted = row.pending_count
        return wanted <= self._capacity and wanted == chunk_count(
            self._weights, self._size, wanted, row.held_count, self.target_us
        )

    def is_over_with(self, row: Row) -> bool:
        """Whether another token would make it too long."""
        return not fits(
            self._weights, self._size, StepSize(0, 1, row.held_count), self.target_us
        )

    def _add(
        self, row: Row, count: int, size: StepSize, draft_count: int, samples: bool
    ) -> None:
        self.work.append(
            Work(row.row_id, row.slot, row.held_count, count, draft_count, samples)
        )
        self._size = self._size.plus(size).plus(StepSize(0, 0, count * row.held_count))
        self._capacity -= count

    def _draft_count(self, row: Row) -> int:
        """Guesses are computed only where they delay nobody beyond the target and cannot pass the row's end."""
        count = min(row.draft_count, row.left_count - 1, self._capacity - 1)
        while count > 0:
            more = StepSize(0, 1 + count, (1 + count) * row.held_count)
            if fits(self._weights, self._size, more, self.target_us):
                return count
            count -= 1
        return 0
