"""Fills one step: every row that generates gets its token, and what time is left goes to prompts.

A step that ends a prompt of the best class, and so brings its first token, is kept short: rows of worse classes are
left out of it, which costs them next to nothing, for prompts are computed at full speed by themselves; and so are those
of its own class, if they bear it. Where requests of a class are expected, steps of worse rows are kept short, for
whoever comes waits for the step under way: the rows then take turns.
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
    mixes: bool = False,
) -> list[Work]:
    """Work of one step for rows of one adapter, at most `capacity` tokens, by slot.

    `expected` is the best class of which a request may come while the step runs. An engine that `mixes` computes
    prompts and next tokens sooner in one step than in two.
    """
    if _only_generate(rows, expected, capacity):
        # Most steps are such, and nothing is to be weighed in them.
        return [Work(row.row_id, row.slot, row.held_count, 1, 0, True) for row in rows]
    urgent = [row for row in rows if row.priority <= expected]
    patient = [row for row in rows if row.priority > expected]
    filled = _fill_by_class(urgent, weights, targets, capacity, step, mixes=mixes)
    if patient:
        short_us = targets.wait_us(expected, weights)
        if filled.bears_all(patient, short_us):
            for row in patient:
                filled.add_tokens(row, short_us)
        elif filled.lets_others_have_a_turn(urgent, step, short_us):
            filled = _Step(weights, short_us, capacity)
            _fill_short(filled, patient, step)
        else:
            for row in patient:
                if step - row.last_step > _MOST_STEPS_LEFT_OUT:
                    filled.add(row, short_us)
    return sorted(filled.work, key=lambda one: one.slot)


def _only_generate(rows: Sequence[Row], expected: Priority, capacity: int) -> bool:
    """Whether all rows are of one class that need not give way, are to have a token each, and come by slot."""
    if not rows or len(rows) > capacity or rows[0].priority > expected:
        return False
    first, last_slot = rows[0].priority, -1
    for row in rows:
        if (
            row.token_count - row.held_count != 1
            or row.priority != first
            or row.draft_count
            or row.slot <= last_slot
        ):
            return False
        last_slot = row.slot
    return True


def _fill_by_class(
    rows: Sequence[Row],
    weights: Weights,
    targets: StepTargets,
    capacity: int,
    step: int,
    *,
    mixes: bool,
) -> _Step:
    """Everybody who generates, best class first, and what time is left for prompts."""
    best = min((row.priority for row in rows), default=Priority.BATCH)
    generating = sorted(
        (row for row in rows if row.is_decoding), key=lambda row: (row.priority, row.slot)
    )
    prompts = sorted(
        (row for row in rows if not row.is_decoding), key=lambda row: (row.rank, row.slot_turn)
    )
    filled = _Step(weights, targets.of(best), capacity)
    mates = [row for row in generating if row.priority == best]
    # Where nobody of the best class generates yet, its prompts are cut to what those bear who do.
    alone = not mates or (
        bool(prompts) and not mixes and filled.may_precede(prompts[0], mates, step)
    )
    bearable_us = targets.of(generating[0].priority) if generating else targets.batch_us
    if not alone:
        for row in mates:
            filled.add_tokens(row, filled.target_us)
    later = list[Row]()
    for row in prompts:
        if generating and row.priority == best and (alone or filled.ends(row)):
            filled.add_prompt(row, bearable_us if alone else filled.target_us)
        else:
            later.append(row)
    ends_prompt = filled.ends_prompt
    for row in generating[len(mates) :]:
        may_wait = step - row.last_step <= _MOST_STEPS_LEFT_OUT
        if not may_wait or not (ends_prompt or filled.is_over_with(row)):
            filled.add_tokens(row, filled.target_us)
    for row in later:
        if row.priority == best or not ends_prompt:
            filled.add_prompt(row, filled.target_us if generating else bearable_us)
    return filled


def _fill_short(filled: _Step, rows: Sequence[Row], step: int) -> None:
    """A piece of a prompt, or a token for each of some rows: a prompt of the best class, or who waits for longest."""
    best = min(row.priority for row in rows)

    def order(row: Row) -> tuple[bool, bool, int, int]:
        may_wait = step - row.last_step <= _MOST_STEPS_LEFT_OUT
        return may_wait, row.is_decoding or row.priority > best, row.last_step, row.slot

    first = min(rows, key=order)
    if not first.is_decoding:
        filled.add_prompt(first, filled.target_us)
        return
    run = list[Row]()
    for row in sorted(rows, key=lambda row: row.slot):
        if row.slot >= first.slot and row.is_decoding:
            # Libraries compute neighbours together.
            if len(run) >= TOKENS_AT_ONCE and row.slot > run[-1].slot + 1:
                break
            run.append(row)
    for row in filled.choose(run):
        filled.add_tokens(row, filled.target_us)


class _Step:
    """What has been put into a step so far. One prompt is always taken, others while there is time."""

    def __init__(self, weights: Weights, target_us: int, capacity: int) -> None:
        self.target_us, self.work = target_us, list[Work]()
        self.ends_prompt = False  # somebody's first token comes of it
        self._weights, self._capacity = weights, capacity
        self._size, self.has_prompt = _NOTHING, False

    def add(self, row: Row, most_us: int) -> None:
        """Whatever is next for the row."""
        if row.is_decoding:
            self.add_tokens(row, most_us)
        else:
            self.add_prompt(row, most_us)

    def add_tokens(self, row: Row, most_us: int) -> None:
        """The next token of a row that generates, and its guesses while the step stays within `most_us`."""
        if self._capacity:
            draft_count = self._draft_count(row, most_us)
            self._add(row, 1 + draft_count, StepSize(0, 1 + draft_count, 0), draft_count, True)

    def add_prompt(self, row: Row, most_us: int) -> None:
        """As much of a prompt as makes a step of `most_us`."""
        is_over = self.has_prompt and not fits(
            self._weights, self._size, _NOTHING, self.target_us
        )
        if not self._capacity or is_over:
            return
        wanted = min(row.pending_count, self._capacity)
        count = chunk_count(self._weights, self._size, wanted, row.held_count, most_us)
        samples = count == row.pending_count
        self._add(row, count, StepSize(count, 0, 0), 0, samples)
        self.has_prompt = True
        self.ends_prompt = self.ends_prompt or samples

    def ends(self, row: Row) -> bool:
        """Whether all that is left of a prompt still goes into the step."""
        wanted = row.pending_count
        return wanted <= self._capacity and wanted == chunk_count(
            self._weights, self._size, wanted, row.held_count, self.target_us
        )

    def may_precede(self, prompt: Row, mates: Sequence[Row], step: int) -> bool:
        """Whether a prompt ends alone, and those of its class who generate bear to come after it.

        It costs no more than both together, for libraries compute what is longer by itself. They have had a token in
        one of the last two steps, so that prompts do not hold them up twice.
        """
        if prompt.priority != mates[0].priority or prompt.pending_count > self._capacity:
            return False
        if not self._weights.prefill_us:
            return False  # nothing is known yet
        size = StepSize(prompt.pending_count, 0, prompt.pending_count * prompt.held_count)
        after = StepSize(0, len(mates), sum(row.held_count for row in mates))
        both_us = self._weights.predict_us(size) + self._weights.predict_us(after)
        return both_us <= self.target_us and any(row.last_step >= step - 2 for row in mates)

    def choose(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The first of `rows`, as many as fit with a token each: by as many as libraries multiply at once.

        A step is never left empty.
        """
        count, size = 0, self._size
        while count < len(rows):
            group = rows[count : count + TOKENS_AT_ONCE]
            more = StepSize(0, len(group), sum(row.held_count for row in group))
            if (count or self.work) and not fits(self._weights, size, more, self.target_us):
                break
            count, size = count + len(group), size.plus(more)
        return rows[:count]

    def bears_all(self, rows: Sequence[Row], most_us: int) -> bool:
        """Whether all of them may come too, a token each, without anybody's prompt in the step."""
        more = StepSize(0, len(rows), sum(row.held_count for row in rows))
        return (
            all(row.is_decoding for row in rows)
            and not self.has_prompt
            and len(rows) <= self._capacity
            and fits(self._weights, self._size, more, min(most_us, self.target_us))
        )

    def lets_others_have_a_turn(self, rows: Sequence[Row], step: int, turn_us: int) -> bool:
        """Whether its rows, which had a token in the last step, bear a step of others before the next."""
        return not self.work or (
            not self.has_prompt
            and any(row.last_step == step - 1 for row in rows)
            and self._weights.predict_us(self._size) + turn_us <= self.target_us
        )

    def is_over_with(self, row: Row) -> bool:
        """Whether another token would make it too long."""
        more = StepSize(0, 1, row.held_count)
        return not fits(self._weights, self._size, more, self.target_us)

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
