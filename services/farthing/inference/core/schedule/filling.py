"""Fills one step: every row that generates gets its token, and what time is left goes to prompts.

A step that ends a prompt of the best class, and so brings its first token, is kept short: rows of worse classes are
left out of it, which costs them next to nothing, for prompts are computed at full speed by themselves. Where requests
of a class are expected, steps of worse rows are kept short, for whoever comes waits for the step under way: the rows
then take turns.
"""

from __future__ import annotations

from collections.abc import Sequence

from farthing.inference.core.cost_model import StepSize, Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.budget import (
    TOKENS_AT_ONCE,
    StepTargets,
    chunk_count,
    fits,
)
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
    rows: Sequence[Row],
    weights: Weights,
    targets: StepTargets,
    *,
    capacity: int,
    step: int,
    expected: Priority = Priority.BATCH,
) -> list[Work]:
    """Work of one step for rows of one adapter, at most `capacity` tokens, by slot.

    `expected` is the best class of which a request may come while the step runs.
    """
    best = min((row.priority for row in rows), default=Priority.BATCH)
    short_us = targets.wait_us(expected, weights)

    def cut_us(row: Row, most_us: int) -> int:
        return most_us if row.priority <= expected else min(most_us, short_us)

    generating = sorted(
        (row for row in rows if row.is_decoding),
        key=lambda row: (row.priority, row.last_step, row.slot),
    )
    prompts = sorted(
        (row for row in rows if not row.is_decoding), key=lambda row: (row.rank, row.slot_turn)
    )
    filled = _Step(weights, targets.of(best), capacity)
    first = [row for row in generating if row.priority == best <= expected]
    # Where nobody of the best class generates yet, its prompts are cut to what those bear who do.
    alone = not first
    bearable_us = targets.of(generating[0].priority) if generating else targets.batch_us
    for row in first:
        filled.add_tokens(row, filled.target_us)
    later = list[Row]()
    for row in prompts:
        if generating and row.priority == best and (alone or filled.ends(row)):
            filled.add_prompt(row, cut_us(row, bearable_us if alone else filled.target_us))
        else:
            later.append(row)
    ends_prompt = filled.ends_prompt
    left = list[Row]()
    for row in generating[len(first) :]:
        if step - row.last_step > _MOST_STEPS_LEFT_OUT:
            filled.add_tokens(row, cut_us(row, filled.target_us))
        elif row.priority == best or not ends_prompt:
            left.append(row)
    while left:
        most_us = cut_us(left[0], filled.target_us)
        count = filled.room_for(left, most_us)
        for row in left[:count]:
            filled.add_tokens(row, most_us)
        left = left[count:] if count else []
    for row in later:
        if row.priority == best or not ends_prompt:
            most_us = filled.target_us if generating else bearable_us
            filled.add_prompt(row, cut_us(row, most_us))
    return sorted(filled.work, key=lambda one: one.slot)


class _Step:
    """What has been put into a step so far. One prompt is always taken, others while there is time."""

    def __init__(self, weights: Weights, target_us: int, capacity: int) -> None:
        self.target_us, self.work = target_us, list[Work]()
        self.ends_prompt = False  # somebody's first token comes of it
        self._weights, self._capacity = weights, capacity
        self._size, self._has_prompt = _NOTHING, False

    def add_tokens(self, row: Row, most_us: int) -> None:
        """The next token of a row that generates, and its guesses while the step stays within `most_us`."""
        if self._capacity:
            draft_count = self._draft_count(row, most_us)
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

    def room_for(self, rows: Sequence[Row], most_us: int) -> int:
        """How many of `rows` may come next, a token each: as many as libraries multiply at once, or none.

        A step is never left empty.
        """
        token_count = self._size.prefill_count + self._size.decode_count
        count = min(len(rows), TOKENS_AT_ONCE - token_count % TOKENS_AT_ONCE)
        more = StepSize(0, count, sum(row.held_count for row in rows[:count]))
        return count if not self.work or fits(self._weights, self._size, more, most_us) else 0

    def _add(
        self, row: Row, count: int, size: StepSize, draft_count: int, samples: bool
    ) -> None:
        self.work.append(
            Work(row.row_id, row.slot, row.held_count, count, draft_count, samples)
        )
        self._size = self._size.plus(size).plus(StepSize(0, 0, count * row.held_count))
        self._capacity -= count

    def _draft_count(self, row: Row, most_us: int) -> int:
        """Guesses are computed only where they delay nobody beyond the time given and cannot pass the row's end."""
        count = min(row.draft_count, row.left_count - 1, self._capacity - 1)
        while count > 0:
            more = StepSize(0, 1 + count, (1 + count) * row.held_count)
            if fits(self._weights, self._size, more, most_us):
                return count
            count -= 1
        return 0
