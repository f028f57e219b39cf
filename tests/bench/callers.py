"""The calls that the benchmarks make: over gRPC to every variant, over HTTP to any OpenAI-compatible server."""

from __future__ import annotations

import itertools
import time
from typing import Any

import aiohttp
from tests.bench.suite import Suite

from farthing.api.inference.v1 import inference_pb2
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import RouterServiceStub
from farthing.kit.rpc.channel import open_channel

_MAX_TOKENS = 10  # of an answer in one message, as the fake upstream gives
STREAM_TOKENS = 100  # of a streamed one: enough to tell a token from a request


def question_text(number: int) -> str:
    """About 200 bytes; each number is another question, so that the cache is asked and misses."""
    return f"question {number}: " + "please tell me what the relay does " * 4


def question(
    number: int, *, max_tokens: int = _MAX_TOKENS, **limits: Any
) -> router_pb2.GenerateRequest:
    """The router's request for a question."""
    part = inference_pb2.ContentPart(text=question_text(number))
    return router_pb2.GenerateRequest(
        input=inference_pb2.GenerationInput(
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, content=[part])],
            max_tokens=max_tokens,
        ),
        constraints=router_pb2.Constraints(task="bench", **limits),
    )


def _check_outcome(outcome: int) -> None:
    """A hit is another, cheaper path than the one that the figures speak of."""
    if outcome != router_pb2.CACHE_OUTCOME_MISS:
        raise RuntimeError(f"the cache's outcome is {outcome}; a miss was to be measured")


class Callers:
    """Calls of every variant over kept channels."""

    def __init__(self, running_suite: Suite) -> None:
        self._metadata = (("authorization", f"Bearer {running_suite.key}"),)
        self._channels = [
            open_channel(address)
            for address in (
                running_suite.echo_address,
                running_suite.router_address,
                running_suite.router_plain_address,
                running_suite.backend_address,
            )
        ]
        echo, router, plain, backend = self._channels
        self._echo: Any = RouterServiceStub(echo)
        self._router: Any = RouterServiceStub(router)
        self._plain: Any = RouterServiceStub(plain)
        self._backend: Any = InferenceServiceStub(backend)
        self._numbers = itertools.count(time.time_ns())

    async def echo(self) -> None:
        await self._echo.Complete(
            router_pb2.CompleteRequest(request=question(next(self._numbers))), timeout=30
        )

    async def router(self) -> None:
        await self._complete(self._router)

    async def plain(self) -> None:
        await self._complete(self._plain)

    async def backend(self) -> None:
        request = inference_pb2.GenerateRequest(
            model="instant", input=question(next(self._numbers)).input
        )
        await self._backend.Complete(inference_pb2.CompleteRequest(request=request), timeout=30)

    async def stream(self) -> None:
        call = self._router.Generate(
            question(next(self._numbers), max_tokens=STREAM_TOKENS),
            metadata=self._metadata,
            timeout=30,
        )
        async for event in call:
            if event.HasField("result"):
                _check_outcome(event.result.cache_outcome)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _complete(self, stub: Any) -> None:
        request = router_pb2.CompleteRequest(request=question(next(self._numbers)))
        response = await stub.Complete(request, metadata=self._metadata, timeout=30)
        _check_outcome(response.result.cache_outcome)


class HttpCaller:
    """Chat completions at one OpenAI-compatible address over kept connections."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._url, self._model = f"{url}/v1/chat/completions", model
        self._headers = {"authorization": f"Bearer {key}"}
        self._numbers = itertools.count(time.time_ns())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(60)
        )

    async def whole(self) -> None:
        """One answer in one body."""
        answer = await self._ask(stream=False)
        if b'"content":"token token' not in answer.replace(b'": "', b'":"'):
            raise RuntimeError(f"no answer from {self._url}: {answer[:500]!r}")

    async def stream(self) -> None:
        """One streamed answer, read to its end."""
        answer = await self._ask(stream=True)
        if not answer.rstrip().endswith(b"data: [DONE]"):
            raise RuntimeError(f"the stream of {self._url} broke off: {answer[-500:]!r}")

    async def close(self) -> None:
        await self._session.close()

    async def _ask(self, *, stream: bool) -> bytes:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": question_text(next(self._numbers))}],
            "max_tokens": _MAX_TOKENS,
            "temperature": 0,
            "stream": stream,
        }
        async with self._session.post(self._url, json=body, headers=self._headers) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"{self._url}: {response.status} {answer[:500]!r}")
            if b'"cache":"hit' in answer:
                raise RuntimeError(
                    f"a cache hit, and a miss was to be measured: {answer[:500]!r}"
                )
            return answer
