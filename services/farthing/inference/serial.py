"""An engine that answers one request at a time, on one thread of its own."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from farthing.inference.backend import Backend, Interrupted
from farthing.inference.core.line import LineFull, WaitingLine
from farthing.inference.core.metering import Speed
from farthing.inference.core.prompt import encode_prompt, plan_token_limit
from farthing.inference.engine import (
    EngineEvent,
    EngineLoad,
    EngineRequest,
    FinishReason,
)
from farthing.inference.job import Job, JobRun, Observer
from farthing.inference.model import ModelDescription
from farthing.inference.stream import EventStream, call_soon
from farthing.kit.errors import FarthingError, Internal, ResourceExhausted, Unavailable

_LOGGER = logging.getLogger(__name__)
_WARM_UP_TOKEN_COUNT = 8
_WARM_UP_ROUNDS = 3
# Up to here tokenising costs less than handing it to another thread and back.
_INLINE_PROMPT_BYTES = 8_192
_RETRY_MS = (50, 10_000)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """`queue_capacity` requests may wait; waiting `aging_ms` lifts one by a priority class."""

    queue_capacity: int = 64
    aging_ms: int = 5_000


class SerialEngine:
    """Implements Engine. The thread owns the backend's sequence; the lock guards the line."""

    def __init__(
        self,
        backend: Backend,
        limits: EngineLimits,
        observer: Observer | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._backend = backend
        self._observer = observer
        self._now_ns = now_ns
        self._line: WaitingLine[Job] = WaitingLine(limits.queue_capacity, limits.aging_ms)
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._running: Job | None = None
        self._accepting = False
        self._stopping = False
        self._speed = Speed()
        self._mean_job_us = 0.0
        self._version = 0
        self._thread = threading.Thread(target=self._work_through, name="engine", daemon=True)

    @property
    def model(self) -> ModelDescription:
        """See Engine."""
        return self._backend.model

    async def start(self) -> None:
        """Warms the backend up, which also gives the first speeds, and begins to serve."""
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        await asyncio.to_thread(self._warm_up)
        self._accepting = True
        self._thread.start()

    async def close(self, drain_s: float) -> None:
        """See Engine. Requests that get no more time fail as Unavailable or end with ERROR."""
        self._accepting = False
        deadline = self._loop.time() + drain_s
        while (load := self.load()).running_request_count + load.queued_request_count:
            rest_s = deadline - self._loop.time()
            if rest_s <= 0:
                break
            try:
                await asyncio.wait_for(self.load_changed(load.version), rest_s)
            except TimeoutError:
                break
        with self._lock:
            self._stopping = True
            waiting = self._line.drain()
            if self._running is not None:
                self._running.cancelled = True
                self._backend.interrupt()
            self._work.notify()
        for job in waiting:
            self._leave(job, _closing_error())
        await asyncio.to_thread(self._thread.join)
        self._backend.close()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineEvent]:
        """See Engine."""
        job = await self._admit(request)
        try:
            async for event in job.stream.events():
                yield event
        finally:
            self._abandon(job)

    def load(self) -> EngineLoad:
        """See Engine."""
        now_us = self._now_ns() // 1000
        with self._lock:
            return EngineLoad(
                version=self._version,
                running_request_count=int(self._running is not None),
                queued_request_count=len(self._line),
                capacity_request_count=1,
                queue_age_ms=self._line.age_us(now_us) // 1000,
                prefill_tokens_per_second=self._speed.prefill_tokens_per_second,
                decode_tokens_per_second=self._speed.decode_tokens_per_second,
            )

    async def load_changed(self, version: int) -> None:
        """See Engine."""
        while self._version == version:
            await self._changed.wait()

    # -- on the event loop ---------------------------------------------------------------

    async def _admit(self, request: EngineRequest) -> Job:
        if not self._accepting:
            raise _closing_error()
        text_length = len(request.prompt) + sum(len(one.content) for one in request.messages)
        if text_length <= _INLINE_PROMPT_BYTES:
            tokens = encode_prompt(request, self._backend)
        else:
            tokens = await asyncio.to_thread(encode_prompt, request, self._backend)
        limit = plan_token_limit(len(tokens), request.max_tokens, self.model.context_length)
        constraint = None
        if request.json_schema:
            constraint = await asyncio.to_thread(self._backend.constrain, request.json_schema)
        seed = request.sampling.seed
        job = Job(
            request=request,
            tokens=tokens,
            token_limit=limit,
            seed=secrets.randbits(63) if seed is None else seed,
            constraint=constraint,
            stream=EventStream(self._loop),
            arrival_ns=self._now_ns(),
        )
        try:
            self._enqueue(job)
        except BaseException:
            job.close()
            raise
        return job

    def _enqueue(self, job: Job) -> None:
        request = job.request
        with self._lock:
            if not self._accepting:
                raise _closing_error()
            try:
                displaced = self._line.push(
                    job, request.priority, request.tenant_id, job.arrival_ns // 1000
                )
            except LineFull:
                raise self._full_error() from None
            self._work.notify()
            self._bump()
        if displaced is not None:
            self._leave(displaced, self._full_error())

    def _abandon(self, job: Job) -> None:
        """Frees the engine of a job whose reader is gone; nothing to do after its end."""
        if job.stream.ended:
            return
        job.cancelled = True
        with self._lock:
            waited = self._line.remove(job)
            if waited:
                self._bump()
            elif self._running is job:
                self._backend.interrupt()
        if waited:
            self._leave(job, None)

    def _leave(self, job: Job, error: FarthingError | None) -> None:
        """Ends a job that never ran."""
        reason = FinishReason.ERROR if error else FinishReason.CANCELLED
        done = job.idle_done(reason, self.model.digest, self._now_ns())
        job.stream.put(error or done)
        job.close()
        if self._observer is not None:
            self._observer.request_done(job.request, done)

    def _full_error(self) -> ResourceExhausted:
        shortest_ms, longest_ms = _RETRY_MS
        wait_ms = round(self._mean_job_us / 1000)
        return ResourceExhausted(
            "The instance's queue is full. Try again later or at another instance.",
            reason="QUEUE_FULL",
            retry_after_ms=min(max(wait_ms, shortest_ms), longest_ms),
        )

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- on either thread, under the lock ------------------------------------------------

    def _bump(self) -> None:
        self._version += 1
        call_soon(self._loop, self._notify)

    # -- on the engine's thread ----------------------------------------------------------

    def _warm_up(self) -> None:
        """Computes a few tokens of no consequence, so that the first request is not the slow one."""
        token = next(
            one for one in range(self.model.vocab_size) if one not in self.model.eos_ids
        )
        prompt_count = min(
            self._backend.prefill_chunk_token_count, self.model.context_length // 2
        )
        best = Speed()
        for _ in range(_WARM_UP_ROUNDS):
            self._backend.rewind(0)
            started_ns = self._now_ns()
            self._backend.prefill([token] * prompt_count)
            prefilled_ns = self._now_ns()
            decode_count = min(_WARM_UP_TOKEN_COUNT, self.model.context_length - prompt_count)
            for _ in range(decode_count):
                self._backend.decode(token)
            best = best.after(
                prefill_us=(prefilled_ns - started_ns) // 1000,
                prefill_count=prompt_count,
                decode_us=(self._now_ns() - prefilled_ns) // 1000,
                decode_count=decode_count,
            )
        least = best.least_prefill_us_per_token, best.least_decode_us_per_token
        self._speed = Speed(*least, *least)

    def _work_through(self) -> None:
        held: list[int] = []
        while True:
            with self._lock:
                while (job := self._line.pop(self._now_ns() // 1000)) is None:
                    if self._stopping:
                        return
                    self._work.wait()
                self._running = job
                self._bump()
            self._serve(job, held)

    def _serve(self, job: Job, held: list[int]) -> None:
        run = JobRun(job, self._backend, self._speed, self._now_ns)
        error: FarthingError | None = None
        try:
            reason = run.run(held)
        except Interrupted:
            held.clear()
            reason = FinishReason.CANCELLED
        except Exception as failure:
            held.clear()
            reason = FinishReason.ERROR
            error = failure if isinstance(failure, FarthingError) else _engine_error()
            _LOGGER.exception(
                "engine step failed", extra={"request_id": job.request.request_id}
            )
        job.close()
        if reason is FinishReason.CANCELLED and self._stopping:
            reason, error = FinishReason.ERROR, _closing_error()
        done = run.done(reason)
        with self._lock:
            self._running = None
            self._speed = run.speed
            self._mean_job_us += 0.2 * (done.usage.compute_us - self._mean_job_us)
            self._bump()
        job.stream.put(error if error is not None and not job.shown else done)
        if self._observer is not None:
            call_soon(self._loop, self._observer.request_done, job.request, done)


def _closing_error() -> Unavailable:
    return Unavailable("The instance is closing. Use another one.", reason="CLOSING")


def _engine_error() -> Internal:
    return Internal("The engine failed at this request.", reason="ENGINE_FAILED")
