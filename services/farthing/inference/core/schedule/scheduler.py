"""Decides, before each step, who computes what where. Deterministic: time and results come in as arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from farthing.inference.core.cost_model import Weights
from farthing.inference.core.priority import Priority
from farthing.inference.core.schedule.budget import StepTargets
from farthing.inference.core.schedule.fairness import ServiceCounters
from farthing.inference.core.schedule.filling import choose_adapter, fill_step
from farthing.inference.core.schedule.line import Line
from farthing.inference.core.schedule.row import Row
from farthing.inference.core.schedule.slots import Room, SlotTable
from farthing.inference.core.schedule.values import (
    Arrival,
    Move,
    Occupancy,
    Plan,
    Restore,
    Save,
    Work,
)

# Shorter ones are as soon computed again as copied out and in.
_LEAST_SAVED_COUNT = 32
# So many prompts of the batch class begin together where that is cheaper, or after a part of the time that the class
# bears for a step: throughput is what it is for.
_COMPANY_COUNT = 4
_COMPANY_PART = 4
# An idle engine waits for company this part of what its first prompts will take, and never longer than that.
_PATIENT_PART = 32
_LONGEST_PATIENCE_US = 4_000
# Who was lifted by waiting does not give way to the class it was lifted to. One slot in so many may be held like that:
# low classes get on, and in a line that has become old all slots are not theirs.
_LIFTED_SHARE = 4
# A class of which a request came so lately is expected to send more: steps of worse classes are kept short for it.
_EXPECTED_US = 5_000_000


@dataclass(frozen=True, slots=True)
class Rules:
    """`queue_capacity` rows may wait for their first slot; waiting `aging_us` lifts one by a class.

    Paused rows are saved in host memory, up to `save_token_capacity` tokens in all; beyond that they are computed
    again.
    """

    queue_capacity: int = 64
    aging_us: int = 5_000_000
    save_token_capacity: int = 1 << 16
    targets: StepTargets = field(default_factory=StepTargets)


class LineFull(Exception):
    """Nobody in the line may be sent away for the newcomer."""


class TooLong(Exception):
    """The sequence would not fit an empty engine."""


class Scheduler:
    """Continuous batching: rows join and leave between any two steps.

    Call `submit` and `cancel` at any time, then in turns `plan`, the step itself, and `computed` and `drew` with its
    results. `fail` instead of `computed` when the step was lost: every row then begins anew, and none is forgotten.
    """

    def __init__(self, room: Room, rules: Rules) -> None:
        self._room, self._rules = room, rules
        self._slots = SlotTable(room)
        self._counters = ServiceCounters()
        self._line = Line(rules.queue_capacity, rules.aging_us, self._counters)
        self._rows: dict[int, Row] = {}
        self._saved_count = 0
        self._step = 0
        self._last_arrival_us = dict[Priority, int]()

    def submit(self, arrival: Arrival) -> int | None:
        """Let a sequence wait for its turn. Returns the row that had to leave for it, if any.

        Raises LineFull when there is none of a lower class, TooLong when it can never fit.
        """
        row = _make_row(arrival)
        if not self._slots.could_ever_hold(row):
            raise TooLong
        displaced = None
        if self._line.is_full:
            displaced = self._line.displaceable(row, arrival.arrival_us)
            if displaced is None:
                raise LineFull
            self.cancel(displaced.row_id)
        present = {other.tenant_id for other in self._rows.values()}
        if row.tenant_id not in present:
            self._counters.arrive(row.tenant_id, present)
        self._rows[row.row_id] = row
        self._last_arrival_us[row.priority] = arrival.arrival_us
        self._line.add(row)
        return None if displaced is None else displaced.row_id

    def cancel(self, row_id: int) -> None:
        """The row is not wanted any more, or has ended: its slot is free for the next plan. Unknown ids are ignored."""
        row = self._rows.pop(row_id, None)
        if row is None:
            return
        if row.slot >= 0:
            self._slots.leave(row)
        else:
            self._line.remove(row)
            self._saved_count -= row.saved_count
        if not any(other.tenant_id == row.tenant_id for other in self._rows.values()):
            self._counters.leave(row.tenant_id)

    finish = cancel

    def plan(self, now_us: int, weights: Weights) -> Plan:
        """The next step; its work is empty when there is nothing to compute."""
        self._step += 1
        expired = self._line.expired(now_us)
        for row in expired:
            self.cancel(row.row_id)
        moves: list[Move] = []
        began: dict[int, int] = {}
        paused: list[int] = []
        self._admit(now_us, moves, began, paused)
        self._slots.compact(moves)
        rows = self._in_company(self._slots.rows(), now_us)
        adapter = choose_adapter(rows, self._step)
        work = fill_step(
            [row for row in rows if row.adapter == adapter],
            weights,
            self._rules.targets,
            capacity=self._room.step_token_capacity,
            step=self._step,
            expected=self._expected(now_us),
            mixes=self._room.mixes_prompts,
        )
        for one in work:
            self._rows[one.row_id].last_step = self._step
        return Plan(
            tuple(moves),
            tuple(work),
            adapter,
            tuple(row.row_id for row in expired),
            began,
            tuple(paused),
        )

    def company_us(self, weights: Weights) -> float:
        """How long an idle engine does well to wait for more requests, so that they begin together, microseconds.

        A small part of what their prompts will take; nothing where a prompt that comes later costs no run of its own.
        """
        if not self._room.groups_prompts or len(self._rows) >= self._room.slot_count:
            return 0.0
        prompt_us = weights.prefill_us * sum(row.prompt_count for row in self._rows.values())
        return min(prompt_us / _PATIENT_PART, _LONGEST_PATIENCE_US)

    def guess(self, row_id: int, draft_count: int) -> None:
        """The row has so many guesses of its next tokens to check in the next step."""
        self._rows[row_id].draft_count = draft_count

    def computed(self, work: Sequence[Work]) -> None:
        """The step has been computed. Tell of drawn tokens by `drew`, and of ended rows by `finish`, afterwards."""
        for one in work:
            row = self._rows.get(one.row_id)
            if row is None:
                continue
            known_count = one.count - one.draft_count
            row.held_count = one.start + known_count
            row.filled_count = one.start + one.count
            row.draft_count = 0
            if one.start < row.prompt_count:
                counted = min(row.held_count, row.prompt_count) - one.start
                self._counters.serve(row.tenant_id, input_count=counted)
            self._slots.note_held(row)

    def drew(self, row_id: int, *, accepted_count: int, chain: Sequence[bytes] = ()) -> None:
        """The row got a new token, and `accepted_count` of its guesses were right.

        `chain` has the whole blocks of all its tokens so far; it may be left out when there is no new one.
        """
        row = self._rows[row_id]
        row.token_count += accepted_count + 1
        row.held_count += accepted_count
        self._counters.serve(row.tenant_id, output_count=accepted_count + 1)
        if len(chain) > len(row.chain):
            row.chain.extend(chain[len(row.chain) :])
        if accepted_count:
            self._slots.note_held(row)

    def not_saved(self, row_id: int) -> None:
        """What a plan's Save asked for was not done: the row will be computed again."""
        row = self._rows[row_id]
        if row.slot < 0:
            self._saved_count -= row.saved_count
            row.saved_count = 0

    def fail(self, now_us: int) -> None:
        """The step was lost and every slot is empty: rows that had one wait for another, at the head of their class.

        Call `not_saved` for those whose Save was not done.
        """
        rows = self._slots.rows()
        self._slots.forget_all()
        for row in rows:
            self._make_wait(row, now_us)

    def occupancy(self, now_us: int) -> Occupancy:
        """How full it is."""
        running = self._slots.rows()
        paused_count = sum(row.paused for row in self._line)
        return Occupancy(
            running_count=len(running),
            waiting_count=len(self._line) - paused_count,
            paused_count=paused_count,
            oldest_wait_us=self._line.oldest_wait_us(now_us),
            kv_token_count=self._slots.held_count(),
            cached_token_count=self._slots.kept_count(),
            saved_token_count=self._saved_count,
        )

    def _expected(self, now_us: int) -> Priority:
        """The best class of which a request may well come while a step runs; the batch class bears what it meets."""
        lately = [
            priority
            for priority, arrival_us in self._last_arrival_us.items()
            if now_us - arrival_us <= _EXPECTED_US
        ]
        return min(lately, default=Priority.BATCH)

    def _in_company(self, rows: list[Row], now_us: int) -> list[Row]:
        """All rows, or those without prompts of the batch class that still wait for others to begin with."""
        if not self._room.groups_prompts or self._room.mixes_prompts:
            return rows
        patient = [
            row
            for row in rows
            if row.priority == Priority.BATCH and not (row.held_count or row.is_decoding)
        ]
        since_us = min((row.arrival_us for row in patient), default=now_us)
        if (
            len(patient) >= _COMPANY_COUNT
            or len(rows) in (len(patient), self._room.slot_count)
            or now_us - since_us >= self._rules.targets.batch_us // _COMPANY_PART
        ):
            return rows
        return [row for row in rows if row not in patient]

    def _admit(
        self, now_us: int, moves: list[Move], began: dict[int, int], paused: list[int]
    ) -> None:
        while (row := self._next(now_us)) is not None:
            victims = self._victims(row)
            if victims is None:
                return  # in order: whoever comes after may not take what the first one waits for
            for victim in victims:
                paused.append(victim.row_id)
                self._pause(victim, now_us, moves)
            self._slots.place(row, moves)
            self._line.remove(row)
            if not row.began:
                row.began = True
                began[row.row_id] = row.held_count
            elif row.saved_count:
                moves.append(Restore(row.row_id, row.slot))
                row.held_count = row.filled_count = row.saved_count
                self._saved_count -= row.saved_count
                row.saved_count = 0
                self._slots.note_held(row)
            row.paused, row.last_step = False, self._step

    def _next(self, now_us: int) -> Row | None:
        """Who gets the next slot, with the class at which it would have it."""
        lifted_count = sum(row.rank < row.priority for row in self._slots.rows())
        lifts = lifted_count < max(1, self._room.slot_count // _LIFTED_SHARE)
        for row in self._line.in_order(now_us, lifts=lifts):
            if not self._slots.is_better_awaited(row):
                row.rank = self._line.rank(row, now_us, lifts=lifts)
                return row
        return None

    def _victims(self, newcomer: Row) -> list[Row] | None:
        """Who gives way so that the newcomer gets a slot; None when it has to wait.

        Rows of the lowest class below its own, of those the one that got its slot last, and no more than it takes.
        """
        lower = [row for row in self._slots.rows() if row.rank > newcomer.rank]
        lower.sort(key=lambda row: (row.rank, row.slot_turn), reverse=True)
        for count in range(len(lower) + 1):
            if self._slots.has_room(newcomer, without=lower[:count]):
                return lower[:count]
        return None

    def _pause(self, row: Row, now_us: int, moves: list[Move]) -> None:
        count = row.held_count
        if (
            count >= _LEAST_SAVED_COUNT
            and self._saved_count + count <= self._rules.save_token_capacity
        ):
            moves.append(Save(row.row_id, row.slot, count))
            row.saved_count = count
            self._saved_count += count
        self._slots.leave(row)
        self._make_wait(row, now_us)

    def _make_wait(self, row: Row, now_us: int) -> None:
        row.paused, row.waiting_since_us, row.draft_count = True, now_us, 0
        self._line.add(row)


def _make_row(arrival: Arrival) -> Row:
    return Row(
        row_id=arrival.row_id,
        tenant_id=arrival.tenant_id,
        priority=arrival.priority,
        adapter=arrival.adapter,
        prompt_count=arrival.prompt_count,
        token_limit=arrival.token_limit,
        arrival_us=arrival.arrival_us,
        deadline_us=arrival.deadline_us,
        chain=list(arrival.prefix),
        token_count=arrival.prompt_count,
        waiting_since_us=arrival.arrival_us,
    )
