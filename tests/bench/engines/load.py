"""Callers and loads: so many streams at once, or arrivals at random times; what came when."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import string
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from farthing.kit.rpc.channel import open_channel

PROMPT_TOKENS = 32  # the models' texts are a token a byte
_draw = random.Random(11)
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `priority` is one of the proto's names without its prefix."""

    prompt: str
    max_tokens: int
    priority: str = "STANDARD"


@dataclass(frozen=True, slots=True)
class Answered:
    """When a request was sent, when its tokens came (seconds of the monotonic clock), how many they were in all."""

    sent_s: float
    told_s: Sequence[float]
    token_count: int

    @property
    def first_s(self) -> float:
        """From sending to the first token."""
        return self.told_s[0] - self.sent_s


Caller = Callable[[Ask], Awaitable[Answered]]


def make_prompt(token_count: int = PROMPT_TOKENS, beginning: str = "") -> str:
    """Letters that no prompt before had, behind a beginning that others may have."""
    letters = "".join(_draw.choices(string.ascii_letters, k=token_count - len(beginning)))
    return (
        f"{beginning}{next(_numbers):04d}{letters[4:]}"
        if len(letters) > 4
        else beginning + letters
    )


class GrpcCaller:
    """Streams from an inference service. `end_ids` are forbidden, so that every answer is as long as asked for."""

    def __init__(self, address: str, model: str, end_ids: Sequence[int] = ()) -> None:
        self._channel = open_channel(address)
        self._stub: Any = InferenceServiceStub(self._channel)
        self._model = model
        self._sampling = pb.SamplingParams(logit_bias=dict.fromkeys(end_ids, -100.0))

    async def __call__(self, ask: Ask) -> Answered:
        sent_s = time.monotonic()
        told_s: list[float] = []
        count = 0
        async for event in self.begin(ask):
            if event.WhichOneof("event") == "delta":
                told_s.append(time.monotonic())
            else:
                count = event.completion.usage.output_token_count
        return Answered(sent_s, told_s, count)

    def begin(self, ask: Ask) -> Any:
        """The call."""
        request = pb.GenerateRequest(
            model=self._model,
            priority=f"PRIORITY_{ask.priority}",
            tenant_id="bench",
            input=pb.GenerationInput(
                prompt=ask.prompt, max_tokens=ask.max_tokens, sampling=self._sampling
            ),
        )
        return self._stub.Generate(request, timeout=600)

    async def running_count(self) -> int:
        """How many requests the service computes now."""
        reports = self._stub.WatchLoad(pb.WatchLoadRequest())
        report = await reports.read()
        reports.cancel()
        return int(report.load.running_request_count)

    async def until_running(self, count: int) -> None:
        """Return once the service computes so many requests."""
        reports = self._stub.WatchLoad(pb.WatchLoadRequest())
        async for report in reports:
            if report.load.running_request_count >= count:
                break
        reports.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class LlamaServerCaller:
    """Streams from llama-server, with the prompt in tokens; only the first and last lines are parsed."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/completion"
        # The server closes connections that were idle, and may do so just as one is taken for the next turn.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector)

    async def __call__(self, ask: Ask) -> Answered:
        body = {
            "prompt": ask.prompt, "n_predict": ask.max_tokens, "stream": True, "temperature": 0,
            "ignore_eos": True, "cache_prompt": False, "samplers": ["temperature"],
        }  # fmt: skip
        sent_s = time.monotonic()
        told_s: list[float] = []
        last = b""
        async with self._session.post(self._url, json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: "):
                    told_s.append(time.monotonic())
                    last = line
        count = int(json.loads(last[6:])["tokens_predicted"])
        return Answered(sent_s, told_s, count)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def stream_together(
    caller: Caller,
    count: int,
    *,
    max_tokens: int,
    priority: str = "BATCH",
    prompt_tokens: int = PROMPT_TOKENS,
) -> tuple[float, list[Answered]]:
    """`count` requests sent at once: generated tokens per second until the last has ended, and the answers.

    Of the batch class, whose steps are the longest and whose tokens are told together every 100 ms: what is measured is
    how much there is, not how soon.
    """
    asks = [Ask(make_prompt(prompt_tokens), max_tokens, priority) for _ in range(count)]
    started_s = time.monotonic()
    answers = await asyncio.gather(*(caller(ask) for ask in asks))
    total = sum(answer.token_count for answer in answers)
    return total / (time.monotonic() - started_s), list(answers)


async def arrive(caller: Caller, asks: Sequence[Ask], at_s: Sequence[float]) -> list[Answered]:
    """Each request sent at its time, whatever has become of those before."""
    started_s = time.monotonic()

    async def one(ask: Ask, due_s: float) -> Answered:
        await asyncio.sleep(max(0.0, started_s + due_s - time.monotonic()))
        return await caller(ask)

    return list(await asyncio.gather(*map(one, asks, at_s)))


def poisson_times(rate_per_s: float, count: int, seed: int) -> list[float]:
    """Seconds from the start; the same ones for the same seed."""
    draw = random.Random(seed)
    return list(itertools.accumulate(draw.expovariate(rate_per_s) for _ in range(count)))


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
