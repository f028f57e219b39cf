"""Several answers to one prompt: rows of their own in the engine, which computes the prompt once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.engine import Engine

Generate = Callable[[pb.GenerateRequest], AsyncGenerator[pb.GenerateResponse]]

_SEED_MODULUS = 1 << 63
# Nobody sees a part of an answer that is asked for as a whole.
_WHOLE_COALESCE_MS = 1_000
# A candidate's event; none when it has ended in an error.
_Told = tuple[int, pb.GenerateResponse | None]


async def generate_candidates(
    engine: Engine, request: pb.GenerateRequest
) -> AsyncGenerator[pb.GenerateResponse]:
    """The events of all candidates, each delta with its candidate's index, then one completion.

    The first error ends them all. `aclose()` frees the engine of all.
    """
    count = max(1, request.input.candidate_count)
    if count == 1:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                yield event
        return
    told: asyncio.Queue[_Told] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_follow(engine, _candidate(request, index), index, told))
        for index in range(count)
    ]
    ends: dict[int, pb.Completion] = {}
    try:
        while len(ends) < count:
            index, news = await told.get()
            if news is None:
                tasks[index].result()  # raises what the candidate ended with
            elif news.HasField("completion"):
                ends[index] = news.completion
            else:
                news.delta.candidate_index = index
                yield news
    finally:
        await _end(tasks)
    yield pb.GenerateResponse(completion=_join([ends[index] for index in range(count)]))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Also takes them out of the list: an error of theirs leads back to the frame that waited for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()


async def _follow(
    engine: Engine, request: pb.GenerateRequest, index: int, told: asyncio.Queue[_Told]
) -> None:
    try:
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                told.put_nowait((index, event))
    except Exception:
        told.put_nowait((index, None))
        raise


def _candidate(request: pb.GenerateRequest, index: int) -> pb.GenerateRequest:
    """The request of one candidate: its own seed, and an equal part of the device time."""
    one = pb.GenerateRequest()
    one.CopyFrom(request)
    given = one.input
    count, given.candidate_count = given.candidate_count, 0
    first = given.sampling.seed if given.sampling.HasField("seed") else secrets.randbits(62)
    given.sampling.seed = (first + index) % _SEED_MODULUS
    if one.compute_limit_us:
        one.compute_limit_us = max(1, one.compute_limit_us // count)
    return one


def _join(ends: list[pb.Completion]) -> pb.Completion:
    """One completion of all: the prompt counts once, what was computed and generated adds up."""
    joined = pb.Completion()
    joined.CopyFrom(ends[0])
    usage = joined.usage
    for end in ends[1:]:
        other = end.usage
        usage.output_token_count += other.output_token_count
        usage.reasoning_token_count += other.reasoning_token_count
        usage.prefill_us += other.prefill_us
        usage.decode_us += other.decode_us
        usage.compute_us += other.compute_us
        usage.response_bytes += other.response_bytes
        usage.energy_uj += other.energy_uj
        usage.peak_kv_bytes += other.peak_kv_bytes
        usage.queue_us = max(usage.queue_us, other.queue_us)
    usage.cached_input_token_count = min(end.usage.cached_input_token_count for end in ends)
    joined.candidate_finish_reasons.extend(end.finish_reason for end in ends)
    return joined


async def complete(generate: Generate, request: pb.GenerateRequest) -> pb.CompleteResponse:
    """The whole answer, of as few messages of the engine as it may send. Changes `request`."""
    request.coalesce_ms = _WHOLE_COALESCE_MS
    whole = _Whole(request.input.candidate_count)
    async with aclosing(generate(request)) as events:
        async for event in events:
            whole.add(event)
    return whole.response()


class _Whole:
    """Puts an answer's events together."""

    def __init__(self, candidate_count: int) -> None:
        count = max(1, candidate_count)
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._logprobs: list[list[pb.TokenLogprob]] = [[] for _ in range(count)]
        self._end = pb.Completion()

    def add(self, event: pb.GenerateResponse) -> None:
        """The next event."""
        if event.HasField("completion"):
            self._end = event.completion
            return
        delta = event.delta
        self._texts[delta.candidate_index].append(delta.text)
        if delta.logprobs:
            self._logprobs[delta.candidate_index].extend(delta.logprobs)

    def response(self) -> pb.CompleteResponse:
        """The whole answer."""
        texts = ["".join(parts) for parts in self._texts]
        response = pb.CompleteResponse(
            text=texts[0], logprobs=self._logprobs[0], completion=self._end
        )
        if len(texts) > 1:
            reasons = self._end.candidate_finish_reasons or [
                common_pb2.FINISH_REASON_UNSPECIFIED
            ] * len(texts)
            for text, logprobs, reason in zip(texts, self._logprobs, reasons, strict=True):
                response.candidates.add(text=text, logprobs=logprobs, finish_reason=reason)
        return response
