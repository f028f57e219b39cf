"""One admitted request, from the waiting line to its last event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from farthing.inference.backend import Backend, Constraint
from farthing.inference.core.generation import Generation
from farthing.inference.core.metering import Meter, Speed
from farthing.inference.core.prompt import request_bytes, reusable_prefix_count
from farthing.inference.engine import (
    DoneEvent,
    EngineRequest,
    EngineUsage,
    FinishReason,
    TokenEvent,
)
from farthing.inference.stream import EventStream


class Observer(Protocol):
    """Told, on the event loop, of every request that left the engine, cancelled ones included."""

    def request_done(self, request: EngineRequest, done: DoneEvent) -> None: ...


@dataclass(eq=False, slots=True)
class Job:
    """A request with all that is needed to compute it. `cancelled` may be set by any thread."""

    request: EngineRequest
    tokens: list[int]
    token_limit: int
    seed: int
    constraint: Constraint | None
    stream: EventStream
    arrival_ns: int
    cancelled: bool = False
    shown: bool = False

    def close(self) -> None:
        """Frees what the job holds."""
        if self.constraint is not None:
            self.constraint.close()

    def idle_done(self, reason: FinishReason, digest: str, now_ns: int) -> DoneEvent:
        """The end of a job that never ran."""
        usage = EngineUsage(
            input_token_count=len(self.tokens),
            queue_us=(now_ns - self.arrival_ns) // 1000,
            request_bytes=request_bytes(self.request),
        )
        return DoneEvent(reason, usage, digest)


class JobRun:
    """Computes one job on a backend, on the engine's thread."""

    def __init__(
        self,
        job: Job,
        backend: Backend,
        speed: Speed,
        now_ns: Callable[[], int],
    ) -> None:
        self._job = job
        self._backend = backend
        self._now_ns = now_ns
        usage = EngineUsage(
            input_token_count=len(job.tokens),
            queue_us=(now_ns() - job.arrival_ns) // 1000,
            request_bytes=request_bytes(job.request),
        )
        self._meter = Meter(usage, job.request.compute_limit_us, speed)
        self._generation = Generation(
            job.request,
            token_limit=job.token_limit,
            seed=job.seed,
            eos_ids=backend.model.eos_ids,
            token_bytes=backend.token_bytes,
            constraint=job.constraint,
        )

    @property
    def speed(self) -> Speed:
        """The engine's speed with this job in it."""
        return self._meter.speed()

    def done(self, reason: FinishReason) -> DoneEvent:
        """The job's end as things stand."""
        return DoneEvent(reason, self._meter.usage(), self._backend.model.digest)

    def run(self, before: list[int]) -> FinishReason:
        """Computes to the end. `before` lists the prompt tokens the backend still holds.

        `before` is kept up to date, so that it is right even after an exception. Raises what the
        backend raises, Interrupted included.
        """
        job, backend, chunk = self._job, self._backend, self._backend.prefill_chunk_token_count
        wanted = reusable_prefix_count(before, job.tokens, chunk)
        del before[:]
        place = backend.rewind(wanted)
        if place % chunk:  # part of a chunk would shift the borders, and with them the rounding
            place = backend.rewind(0)
        before.extend(job.tokens[:place])
        self._meter.reuse_prefill(place)
        while True:
            part = job.tokens[place : place + chunk]
            if job.cancelled:
                return FinishReason.CANCELLED
            if not self._meter.may_prefill(len(part)):
                return self._cut(FinishReason.BUDGET)
            started_ns = self._now_ns()
            logits = backend.prefill(part)
            self._meter.add_prefill(len(part), (self._now_ns() - started_ns) // 1000)
            place += len(part)
            before.extend(part)
            if place == len(job.tokens):
                break
        while True:
            started_ns = self._now_ns()
            step = self._generation.advance(logits)
            if step.event is not None:
                self._show(step.event)
            if step.finish_reason is not None:
                return step.finish_reason
            assert step.token is not None
            if job.cancelled:
                return FinishReason.CANCELLED
            if not self._meter.may_decode():
                return self._cut(FinishReason.BUDGET)
            logits = backend.decode(step.token)
            self._meter.add_decode((self._now_ns() - started_ns) // 1000)

    def _cut(self, reason: FinishReason) -> FinishReason:
        rest = self._generation.flush()
        if rest is not None:
            self._show(rest)
        return reason

    def _show(self, event: TokenEvent) -> None:
        self._meter.add_output(event.token_count, event.text)
        self._job.shown = True
        self._job.stream.put(event)
