"""One turn after the other: plan a step, compute it, draw, tell. Blocking; everything here happens in one thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from farthing.inference.batch.admission import Job
from farthing.inference.batch.telling import Emission, Telling
from farthing.inference.batch.warming import warm_up
from farthing.inference.batch_backend import (
    BatchBackend,
    Interrupted,
    SavedSlot,
    SlotWork,
    StepOutput,
)
from farthing.inference.core.cost_model import CostModel, StepSize, Weights, split_us
from farthing.inference.core.generation import Drawn
from farthing.inference.core.request import (
    DoneEvent,
    EngineUsage,
    FinishReason,
)
from farthing.inference.core.schedule.scheduler import LineFull, Rules, Scheduler, TooLong
from farthing.inference.core.schedule.slots import Room
from farthing.inference.core.schedule.values import (
    Copy,
    Move,
    Occupancy,
    Plan,
    Restore,
    Save,
    Trim,
    Work,
)
from farthing.inference.energy import EnergyMeter
from farthing.kit.errors import FarthingError, Internal, ResourceExhausted

# Lost in company, then alone: the request is at fault.
_MOST_FAILURES = 2
_RETRY_MS = (50, 10_000)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """Since the start, for metrics. Device time and energy of all requests sum to `busy_us` and `energy_uj`."""

    step_count: int = 0
    busy_us: int = 0
    energy_uj: int = 0
    prompt_count: int = 0
    reused_count: int = 0
    guessed_count: int = 0
    right_count: int = 0
    pause_count: int = 0
    lost_step_count: int = 0


@dataclass(slots=True)
class _Part:
    """What one row contributes to a step, and what came of it."""

    job: Job
    work: Work
    size: StepSize
    drawn: list[Drawn] = field(default_factory=list)
    error: FarthingError | None = None


class BatchLoop:
    """Call `step` as long as it says that there was something to do. `emit` gets what each turn brought, at its end."""

    def __init__(
        self,
        backend: BatchBackend,
        rules: Rules,
        *,
        emit: Callable[[Sequence[Emission]], None],
        now_ns: Callable[[], int],
        energy: EnergyMeter | None = None,
    ) -> None:
        layout = backend.layout
        self._backend, self._now_ns = backend, now_ns
        self._telling = Telling(emit)
        self._energy, self._was_idle = energy, True
        self._scheduler = Scheduler(
            Room(
                layout.slot_count,
                layout.slot_token_capacity,
                layout.token_capacity,
                layout.step_token_capacity,
                layout.groups_prompts,
                layout.mixes_prompts,
            ),
            rules,
        )
        self._costs = CostModel()
        self._jobs: dict[int, Job] = {}
        self._saved: dict[int, SavedSlot] = {}
        self._mean_job_us = 0.0
        self.totals = Totals()

    @property
    def weights(self) -> Weights:
        """What tokens cost here, as fitted so far."""
        return self._costs.weights

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits or runs."""
        return not self._jobs

    @property
    def crowd(self) -> tuple[int, int, int]:
        """Differs whenever somebody came, began, gave way or left."""
        return len(self._jobs), self.totals.prompt_count, self.totals.pause_count

    def occupancy(self) -> Occupancy:
        """How full the engine is."""
        return self._scheduler.occupancy(self._now_us())

    @property
    def company_us(self) -> float:
        """See Scheduler."""
        return self._scheduler.company_us(self._costs.weights)

    def start(self, job: Job) -> None:
        """Let a job wait for its turn; refusals are emitted with the next step."""
        try:
            displaced = self._scheduler.submit(job.arrival)
        except LineFull:
            self._refuse(job, self._full_error())
            return
        except TooLong:
            self._refuse(job, Internal("The sequence can never fit.", reason="ENGINE_FAILED"))
            return
        self._jobs[job.job_id] = job
        if displaced is not None:
            self._refuse(self._jobs.pop(displaced), self._full_error())

    def cancel(self, job_id: int) -> None:
        """Nobody waits for the job any more. Its slot is free in the next step."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._end(job, FinishReason.CANCELLED)

    def abort(self, error: FarthingError) -> None:
        """End every job: those that have shown nothing with the error."""
        for job in list(self._jobs.values()):
            self._fail(job, error)
        self._telling.flush()

    def step(self) -> bool:
        """One turn. False when there was nothing to compute."""
        if self._was_idle and self._energy is not None:
            self._energy.take_uj()  # drawn while nobody asked for anything
        for job in self._jobs.values():
            if job.generation.token_count and not job.guesses:
                job.guesses = job.drafter.guess(job.tokens)
                if job.guesses:
                    self._scheduler.guess(job.job_id, len(job.guesses))
        started_ns = self._now_ns()
        plan = self._scheduler.plan(started_ns // 1000, self._costs.weights)
        self._note(plan, started_ns // 1000)
        parts = [self._part(work) for work in plan.work]
        moved = False
        try:
            self._move(plan.moves)
            moved = True
            parts = self._affordable(parts)
            if parts:
                self._compute(parts, plan.adapter, started_ns)
        except Interrupted:
            self._lose(parts, blame=False)
        except Exception:
            _log.exception("a step was lost", extra={"row_count": len(parts)})
            self._lose(
                parts, blame=moved
            )  # moves are of the engine's making, not of a request's
        self._telling.flush()
        self._was_idle = not (plan.work or plan.moves)
        return not self._was_idle

    def warm_up(self) -> None:
        """See warming."""
        warm_up(self._backend, self._costs, self._now_ns)

    # -- a step ---------------------------------------------------------------------------

    def _note(self, plan: Plan, now_us: int) -> None:
        for job_id in plan.expired:
            self._refuse(self._jobs.pop(job_id), _too_late())
        for job_id, reused_count in plan.began.items():
            job = self._jobs[job_id]
            job.meter.begin(queue_us=now_us - job.arrival.arrival_us, cached_count=reused_count)
            self.totals.prompt_count += job.arrival.prompt_count
            self.totals.reused_count += reused_count
        for job_id in plan.paused:
            self._telling.rest(self._jobs[job_id])
        self.totals.pause_count += len(plan.paused)

    def _part(self, work: Work) -> _Part:
        job = self._jobs[work.row_id]
        return _Part(job, work, _size_of(job, work))

    def _affordable(self, planned: list[_Part]) -> list[_Part]:
        """The plan's work, without rows whose limit of device time the step would pass: they end here.

        After the plan's moves, for an ended row's slot keeps what they have brought there.
        """
        weights, parts = self._costs.weights, []
        for part in planned:
            if part.job.meter.may(part.size, weights, len(planned)):
                parts.append(part)
            else:
                self._end(part.job, FinishReason.BUDGET)
        # Whose step was lost is computed alone, so that it is known whose fault it is.
        suspects = [part for part in parts if part.job.failure_count]
        return suspects[:1] or parts

    def _move(self, moves: Sequence[Move]) -> None:
        # The scheduler counts on a Restore once it is planned: what it takes is gone, also when an earlier move fails.
        taken = {
            move.row_id: self._saved.pop(move.row_id, None)
            for move in moves
            if isinstance(move, Restore)
        }
        for move in moves:
            match move:
                case Copy(source, target, token_count):
                    self._backend.copy(source, target, token_count)
                case Trim(slot, token_count):
                    self._backend.trim(slot, token_count)
                case Save(row_id, slot, token_count):
                    self._save(row_id, slot, token_count)
                case Restore(row_id, slot):
                    self._backend.restore(slot, taken[row_id] or self._saved.pop(row_id))

    def _save(self, row_id: int, slot: int, token_count: int) -> None:
        try:
            self._saved[row_id] = self._backend.save(slot, token_count)
        except (FarthingError, MemoryError):
            _log.warning("a row's state could not be saved; it is computed again")
            self._scheduler.not_saved(row_id)

    def _compute(self, parts: list[_Part], adapter: str, started_ns: int) -> None:
        output = self._backend.step([_slot_work(part) for part in parts], adapter)
        self._scheduler.computed([part.work for part in parts])
        for part in parts:
            part.job.failure_count = 0
        self._draw(parts, output)
        duration_us = max(1, (self._now_ns() - started_ns) // 1000)
        self._share(parts, duration_us)
        for part in parts:
            self._tell(part, started_ns // 1000)

    def _draw(self, parts: list[_Part], output: StepOutput) -> None:
        takes_best = any(p.work.samples and p.job.generation.takes_best for p in parts)
        best = output.best() if takes_best else None
        row = 0
        for part in parts:
            job, work = part.job, part.work
            guesses, job.guesses = job.guesses[: work.draft_count], []
            if not work.samples:
                continue
            try:
                for place in range(work.draft_count + 1):
                    if best is not None and job.generation.takes_best:
                        drawn = job.generation.take(int(best[row + place]))
                    else:
                        drawn = job.generation.draw(output.row(row + place))
                    part.drawn.append(drawn)
                    is_last = place == work.draft_count
                    if drawn.finish_reason or is_last or drawn.token != guesses[place]:
                        break
            except FarthingError as error:  # of this answer's making, not of the step's
                part.error = error
            row += work.draft_count + 1
            right_count = max(0, len(part.drawn) - 1)
            job.drafter.learn(work.draft_count, right_count)
            self.totals.guessed_count += work.draft_count
            self.totals.right_count += right_count

    def _share(self, parts: list[_Part], duration_us: int) -> None:
        """Each row pays for its share of the step, and the shares are the step."""
        weights = self._costs.weights
        parts_us = [weights.weigh(part.size) for part in parts]
        energy_uj = self._energy.take_uj() if self._energy is not None else 0
        energies = split_us(energy_uj, parts_us) if energy_uj else [0] * len(parts)
        token_bytes = self._backend.layout.token_bytes
        for part, share_us, share_uj in zip(
            parts, split_us(duration_us, parts_us), energies, strict=True
        ):
            kv_bytes = (part.work.start + part.work.count) * token_bytes
            part.job.meter.add_step(part.size, share_us, kv_bytes, energy_uj=share_uj)
        prefill_counts, decode_counts, kv_counts = zip(*(p.size for p in parts), strict=True)
        whole = StepSize(sum(prefill_counts), sum(decode_counts), sum(kv_counts))
        self._costs.add(whole, duration_us)
        self.totals.step_count += 1
        self.totals.busy_us += duration_us
        self.totals.energy_uj += energy_uj

    def _tell(self, part: _Part, now_us: int) -> None:
        job, drawn = part.job, part.drawn
        if part.error is not None:
            self._fail(job, part.error)
            return
        if not drawn:
            return
        job.untold.extend(one.event for one in drawn if one.event is not None)
        reason = drawn[-1].finish_reason
        if reason is not None:
            self._end(job, reason)
            return
        self._telling.part(job, now_us)
        job.extend([one.token for one in drawn])
        self._scheduler.drew(job.job_id, accepted_count=len(drawn) - 1, chain=job.chain)

    # -- the ends of jobs -----------------------------------------------------------------

    def _end(self, job: Job, reason: FinishReason) -> None:
        rest = job.generation.flush()
        if rest is not None:
            job.untold.append(rest)
        self._telling.rest(job)
        usage = self._drop(job)
        self._telling.end(job, DoneEvent(reason, usage, self._backend.model.digest))

    def _fail(self, job: Job, error: FarthingError) -> None:
        """Who has seen something of the answer gets its end, with what it used; who has not gets the error."""
        if job.shown:
            self._telling.rest(job)
        usage = self._drop(job)
        done = DoneEvent(FinishReason.ERROR, usage, self._backend.model.digest)
        self._telling.end(job, done if job.shown else error)

    def _drop(self, job: Job) -> EngineUsage:
        self._jobs.pop(job.job_id, None)
        self._scheduler.finish(job.job_id)
        self._saved.pop(job.job_id, None)
        job.generation.close()
        usage = job.meter.usage(reasoning_count=job.generation.reasoning_count)
        self._mean_job_us += 0.2 * (usage.compute_us - self._mean_job_us)
        return usage

    def _refuse(self, job: Job, error: FarthingError) -> None:
        """A job that never ran."""
        job.generation.close()
        self._telling.end(job, error)

    def _lose(self, parts: list[_Part], *, blame: bool) -> None:
        """The step is lost: make the backend whole and compute again, without a row that was lost alone."""
        self.totals.lost_step_count += 1
        for job_id in self._jobs:
            if job_id not in self._saved:  # it may have been planned and not come to
                self._scheduler.not_saved(job_id)
        self._scheduler.fail(self._now_us())
        self._backend.reset()
        for part in parts:
            job = part.job
            job.failure_count += blame
            if (
                job.failure_count >= _MOST_FAILURES
                and len(parts) == 1
                and job.job_id in self._jobs
            ):
                self._fail(job, _engine_error())

    def _full_error(self) -> ResourceExhausted:
        shortest_ms, longest_ms = _RETRY_MS
        return ResourceExhausted(
            "The instance's queue is full. Try again later or at another instance.",
            reason="QUEUE_FULL",
            retry_after_ms=min(max(round(self._mean_job_us / 1000), shortest_ms), longest_ms),
        )

    def _now_us(self) -> int:
        return self._now_ns() // 1000


def _size_of(job: Job, work: Work) -> StepSize:
    if job.generation.token_count and work.samples and work.count == work.draft_count + 1:
        return StepSize(0, work.count, work.count * work.start)
    return StepSize(work.count, 0, work.count * work.start)


def _slot_work(part: _Part) -> SlotWork:
    work, job = part.work, part.job
    end = work.start + work.count - work.draft_count
    tokens = job.tokens[work.start : end] + job.guesses[: work.draft_count]
    return SlotWork(work.slot, work.start, tokens, work.draft_count + 1 if work.samples else 0)


def _too_late() -> ResourceExhausted:
    return ResourceExhausted(
        "The instance was too busy to begin in time. Try again later or at another instance.",
        reason="QUEUE_TIMEOUT",
        retry_after_ms=_RETRY_MS[0],
    )


def _engine_error() -> Internal:
    return Internal("The engine failed at this request.", reason="ENGINE_FAILED")
