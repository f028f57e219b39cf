"""Callers that send one random request after the other, and look at each answer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import grpc
from tests.soak.mixture import Ask, Mixture, Way

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.kit.rpc.status import decode_error

# Far above what any request takes beside its company: one that takes longer is stuck.
STUCK_S = 60.0
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

    def __init__(self, stub: Any, mixture: Mixture) -> None:
        self._stub, self._mixture = stub, mixture
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
        await asyncio.gather(
            *(self._finish(self._stub.Generate(one, timeout=STUCK_S)) for one in requests)
        )

    async def _call(self) -> None:
        while not self._stopping and len(self.faults) < _MOST_FAULTS:
            ask = self._mixture.next()
            try:
                await self._answer(ask)
            except grpc.aio.AioRpcError as error:
                await self._note(ask, error)
            self.counts[ask.way] += 1

    async def _answer(self, ask: Ask) -> None:
        match ask.way:
            case Way.EMBED:
                await self._embed(ask)
            case Way.WHOLE:
                request = pb.CompleteRequest(request=ask.request)
                answer = await self._stub.Complete(request, timeout=STUCK_S)
                self._check_end(ask, answer.completion)
            case Way.LEAVE | Way.LEAVE_EARLY:
                await self._leave(ask)
            case _:
                stream = self._stub.Generate(ask.request, timeout=STUCK_S)
                text, end = await self._finish(stream)
                self._check_end(ask, end)
                if ask.way is Way.SCHEMA:
                    self._check_json(ask, text, end)
                elif ask.way is Way.BAD:
                    self.faults.append("a request with temperature 3 was answered")

    async def _finish(self, stream: Any) -> tuple[str, pb.Completion]:
        text, count, end = "", 0, pb.Completion()
        async for event in stream:
            text += event.delta.text
            count += event.delta.token_count
            if event.HasField("completion"):
                end = event.completion
        if count != end.usage.output_token_count:
            self.faults.append(
                f"{count} tokens came and the completion counts {end.usage.output_token_count}"
            )
        return text, end

    async def _leave(self, ask: Ask) -> None:
        stream = self._stub.Generate(ask.request, timeout=STUCK_S)
        if ask.way is Way.LEAVE_EARLY:
            await asyncio.sleep(0.001 * ask.leave_after)
        else:
            left = ask.leave_after
            async for event in stream:
                left -= 1
                if event.HasField("completion") or not left:
                    break
        stream.cancel()

    async def _embed(self, ask: Ask) -> None:
        request = pb.EmbedRequest(model=ask.request.model, texts=ask.texts)
        answer = await self._stub.Embed(request, timeout=STUCK_S)
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

    async def _note(self, ask: Ask, error: grpc.aio.AioRpcError) -> None:
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.faults.append(
                f"a request to be {ask.way.value} had no end after {STUCK_S:.0f} s"
            )
            return
        failure = decode_error(error)
        if ask.way is Way.BAD and code is grpc.StatusCode.INVALID_ARGUMENT:
            return
        if failure.reason in _FAIR_REFUSALS:
            self.refused_count += 1
            await asyncio.sleep((failure.retry_after_ms or 50) / 1000)
            return
        self.faults.append(
            f"a request to be {ask.way.value} failed: {failure.reason}: {failure.message}"
        )
