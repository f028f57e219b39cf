"""Callers that send one random request after the other, and look at each answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import aclosing
from typing import Any

from tests.soak.lines import STUCK_S, Line, OwnCalls
from tests.soak.mixture import Ask, Mixture, Way

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.kit.errors import DeadlineExceeded, FarthingError, InvalidArgument

# A service that ends a request in time gets to say so.
_SLACK_S = 5.0
_MOST_FAULTS = 20
_ENDS = {
    common_pb2.FINISH_REASON_STOP,
    common_pb2.FINISH_REASON_LENGTH,
    common_pb2.FINISH_REASON_BUDGET,
}
# What a loaded service may say.
_FAIR_REFUSALS = {"QUEUE_FULL", "QUEUE_TIMEOUT"}


class Callers:
    """So many callers in closed loops. `faults` are sentences about what went wrong."""

    def __init__(self, stub: Any, kept_call: Line, mixture: Mixture) -> None:
        self._own_calls, self._kept_call = OwnCalls(stub), kept_call
        self._mixture = mixture
        self._stopping = False
        self.faults: list[str] = []
        self.counts: Counter[Way] = Counter()
        self.refused_count = 0
        self.token_count = 0
        self.embed_us = 0

    async def run(self, caller_count: int, seconds: float) -> None:
        """Returns when the time is over and every caller has its last answer."""
        callers = [asyncio.create_task(self._call()) for _ in range(caller_count)]
        try:
            await asyncio.sleep(seconds)
        finally:
            self._stopping = True
            await asyncio.gather(*callers)

    async def fill(self, count: int) -> None:
        """So many requests at once that fill a slot each."""
        requests = [self._mixture.fill() for _ in range(count)]
        await asyncio.gather(*(self._finish(self._own_calls, one) for one in requests))

    async def _call(self) -> None:
        while not self._stopping and len(self.faults) < _MOST_FAULTS:
            ask = self._mixture.next()
            try:
                async with asyncio.timeout(STUCK_S + _SLACK_S):
                    await self._answer(ask)
            except FarthingError as error:
                await self._note(ask, error)
            except TimeoutError:
                self._note_stuck(ask)
            self.counts[ask.way] += 1

    async def _answer(self, ask: Ask) -> None:
        line = self._kept_call if ask.over_kept_call else self._own_calls
        match ask.way:
            case Way.EMBED:
                await self._embed(ask)
            case Way.WHOLE:
                answer = await line.complete(ask.request)
                self._check_end(ask, answer.completion)
            case Way.LEAVE | Way.LEAVE_EARLY:
                await self._leave(line, ask)
            case _:
                text, end = await self._finish(line, ask.request)
                self._check_end(ask, end)
                if ask.way is Way.SCHEMA:
                    self._check_json(ask, text, end)
                elif ask.way is Way.BAD:
                    self.faults.append("a request with temperature 3 was answered")

    async def _finish(
        self, line: Line, request: pb.GenerateRequest
    ) -> tuple[str, pb.Completion]:
        text, count, end = "", 0, pb.Completion()
        async for event in line.generate(request):
            text += event.delta.text
            count += event.delta.token_count
            if event.HasField("completion"):
                end = event.completion
        if count != end.usage.output_token_count:
            self.faults.append(
                f"{count} tokens came and the completion counts {end.usage.output_token_count}"
            )
        return text, end

    async def _leave(self, line: Line, ask: Ask) -> None:
        async with aclosing(line.generate(ask.request)) as events:
            if ask.way is Way.LEAVE_EARLY:
                try:
                    await asyncio.wait_for(anext(events), 0.001 * ask.leave_after)
                except TimeoutError:
                    return
            else:
                left = ask.leave_after
                async for event in events:
                    left -= 1
                    if event.HasField("completion") or not left:
                        return

    async def _embed(self, ask: Ask) -> None:
        answer = await self._own_calls.embed(ask.request.model, ask.texts)
        self.embed_us += answer.usage.compute_us
        if len(answer.embeddings) != len(ask.texts):
            self.faults.append(f"{len(ask.texts)} texts made {len(answer.embeddings)} vectors")

    def _check_end(self, ask: Ask, end: pb.Completion) -> None:
        self.token_count += end.usage.output_token_count
        if end.finish_reason not in _ENDS:
            name = common_pb2.FinishReason.Name(end.finish_reason)
            self.faults.append(f"a request to be {ask.way.value} ended with {name}")
        limit_us = ask.request.compute_limit_us
        if end.finish_reason == common_pb2.FINISH_REASON_BUDGET and (
            end.usage.compute_us < limit_us / 10
        ):
            self.faults.append(
                f"a limit of {limit_us} us ended an answer that had used {end.usage.compute_us} us"
            )
        most = max(1, ask.request.input.candidate_count) * ask.request.input.max_tokens
        if end.usage.output_token_count > most:
            self.faults.append(f"{end.usage.output_token_count} tokens where {most} were asked")

    def _check_json(self, ask: Ask, text: str, end: pb.Completion) -> None:
        if end.finish_reason != common_pb2.FINISH_REASON_STOP:
            return  # cut at its length
        try:
            json.loads(text)
        except ValueError:
            self.faults.append(f"an answer held to a schema is no JSON: {text!r}")

    async def _note(self, ask: Ask, failure: FarthingError) -> None:
        if isinstance(failure, DeadlineExceeded) and failure.reason not in _FAIR_REFUSALS:
            self._note_stuck(ask)
            return
        if ask.way is Way.BAD and isinstance(failure, InvalidArgument):
            return
        if failure.reason in _FAIR_REFUSALS:
            self.refused_count += 1
            await asyncio.sleep((failure.retry_after_ms or 50) / 1000)
            return
        self.faults.append(
            f"a request to be {ask.way.value} failed: {failure.reason}: {failure.message}"
        )

    def _note_stuck(self, ask: Ask) -> None:
        self.faults.append(f"a request to be {ask.way.value} had no end after {STUCK_S:.0f} s")
