"""What the router adds: CPU against a bare echo, latency against calling the engine directly, memory, start, tracing.

Run with `make bench-router`. Windows of every variant are interleaved, so that foreign load meets all of them; each
figure is the median over rounds of a ratio within one round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from tests.bench.processes import cpu_seconds, rss_mib, running
from tests.bench.report import Result, judge, write_report
from tests.bench.suite import Suite, suite

from farthing.api.inference.v1 import inference_pb2
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import RouterServiceStub
from farthing.kit.rpc.channel import open_channel
from farthing.kit.testing import free_port

Call = Callable[[int], Awaitable[Any]]
_STREAM_TOKENS = 10  # the instant engine's answer


@dataclass
class Window:
    """One variant in one round."""

    calls: int = 0
    cpu_us: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def cpu_us_per_call(self) -> float:
        return self.cpu_us / max(1, self.calls)

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies_ms)


async def measure(call: Call, pid: int, *, concurrency: int, seconds: float) -> Window:
    """Closed loop for so long; CPU of process `pid` over the window."""
    window, deadline, number = Window(), time.monotonic() + seconds, 0
    before = cpu_seconds(pid)

    async def worker() -> None:
        nonlocal number
        while time.monotonic() < deadline:
            number += 1
            started = time.perf_counter()
            await call(number)
            window.latencies_ms.append((time.perf_counter() - started) * 1e3)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    window.cpu_us = (cpu_seconds(pid) - before) * 1e6
    window.calls = len(window.latencies_ms)
    return window


def question(number: int, **limits: Any) -> router_pb2.GenerateRequest:
    """About 200 bytes; each number is another question, so that the cache is asked and misses."""
    text = f"question {number}: " + "please tell me what the relay does " * 4
    part = inference_pb2.ContentPart(text=text)
    return router_pb2.GenerateRequest(
        input=inference_pb2.GenerationInput(
            messages=[inference_pb2.Message(role=inference_pb2.ROLE_USER, content=[part])],
            max_tokens=16,
        ),
        constraints=router_pb2.Constraints(task="bench", **limits),
    )


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
        self._offset = time.time_ns()

    async def echo(self, number: int) -> None:
        await self._echo.Complete(
            router_pb2.CompleteRequest(request=question(number)), timeout=30
        )

    async def router(self, number: int) -> None:
        await self._complete(self._router, number)

    async def plain(self, number: int) -> None:
        await self._complete(self._plain, number)

    async def backend(self, number: int) -> None:
        request = inference_pb2.GenerateRequest(model="instant", input=question(number).input)
        await self._backend.Complete(inference_pb2.CompleteRequest(request=request), timeout=30)

    async def stream(self, number: int) -> None:
        call = self._router.Generate(
            question(self._offset + number), metadata=self._metadata, timeout=30
        )
        async for _ in call:
            pass

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _complete(self, stub: Any, number: int) -> None:
        request = router_pb2.CompleteRequest(request=question(self._offset + number))
        await stub.Complete(request, metadata=self._metadata, timeout=30)


async def compare(running_suite: Suite, *, rounds: int, seconds: float) -> list[Result]:
    """All figures that need the suite."""
    callers = Callers(running_suite)
    router, echo = running_suite.router.pid, running_suite.echo.pid
    plain, backend = running_suite.router_plain.pid, running_suite.backend.pid
    results: list[Result] = []
    variants: dict[str, tuple[Call, int]] = {
        "echo": (callers.echo, echo),
        "router": (callers.router, router),
        "plain": (callers.plain, plain),
        "backend": (callers.backend, backend),
    }
    for call, pid in variants.values():
        await measure(call, pid, concurrency=4, seconds=0.5)
    for concurrency in (1, 16):
        taken: dict[str, list[Window]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, (call, pid) in variants.items():
                taken[name].append(
                    await measure(call, pid, concurrency=concurrency, seconds=seconds)
                )

        def ratio(over: str, under: str, pick: Callable[[Window], float]) -> float:
            pairs = zip(taken[over], taken[under], strict=True)  # noqa: B023  used at once
            return statistics.median(pick(a) / pick(b) for a, b in pairs)

        def middle(name: str, pick: Callable[[Window], float]) -> float:
            return statistics.median(pick(window) for window in taken[name])  # noqa: B023

        at = f"at concurrency {concurrency}"
        cpu = ratio("router", "echo", lambda w: w.cpu_us_per_call)
        results += [
            Result(
                f"echo CPU per request {at}",
                round(middle("echo", lambda w: w.cpu_us_per_call)),
                "us",
            ),
            Result(
                f"router CPU per request {at}",
                round(middle("router", lambda w: w.cpu_us_per_call)),
                "us",
            ),
            judge(f"router CPU over bare echo {at}", cpu, "x", "<= 5.5"),
            judge(
                f"tracing on over off, CPU {at}",
                ratio("router", "plain", lambda w: w.cpu_us_per_call),
                "x",
                "<= 1.10",
            ),
            Result(
                f"router requests per second {at}",
                middle("router", lambda w: w.calls / seconds),
                "1/s",
            ),
        ]
        added = statistics.median(
            a.p50_ms - b.p50_ms for a, b in zip(taken["router"], taken["backend"], strict=True)
        )
        name = f"added p50 over calling the engine {at}"
        results.append(
            judge(name, added, "ms", "<= 2.0")
            if concurrency == 1
            else Result(name, round(added, 3), "ms")
        )
    results += await compare_streams(callers, running_suite, rounds=rounds, seconds=seconds)
    results.append(judge("router memory after load", rss_mib(router), "MiB", "<= 90"))
    await callers.close()
    return results


async def compare_streams(
    callers: Callers, running_suite: Suite, *, rounds: int, seconds: float
) -> list[Result]:
    """CPU per streamed token, beyond what a request without tokens costs."""
    pid = running_suite.router.pid
    bare, few, many = [], [], []
    for _ in range(rounds):
        bare.append(await measure(callers.router, pid, concurrency=8, seconds=seconds))
        few.append(await measure(callers.stream, pid, concurrency=8, seconds=seconds))
        many.append(await measure(callers.stream, pid, concurrency=32, seconds=seconds))

    def per_token(windows: list[Window]) -> float:
        return statistics.median(
            max(0.0, a.cpu_us_per_call - b.cpu_us_per_call) / _STREAM_TOKENS
            for a, b in zip(windows, bare, strict=True)
        )

    return [
        judge("router CPU per streamed token", per_token(few), "us", "<= 150"),
        judge("router CPU per streamed token, coalesced", per_token(many), "us", "<= 50"),
    ]


def cold_start(running_suite: Suite, work: Path) -> float:
    """Seconds from exec to SERVING, the median of five."""
    spans = []
    for number in range(5):
        started = time.monotonic()
        env = {**running_suite.environment, "FARTHING_DATA_DIR": str(work / f"cold-{number}")}
        with running("farthing.router", f"127.0.0.1:{free_port()}", env, log=work / "cold.log"):
            spans.append(time.monotonic() - started)
    return statistics.median(spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("build/bench/router.json"))
    parser.add_argument(
        "--no-litellm", action="store_true", help="skip the comparison with LiteLLM"
    )
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        work = Path(directory)
        with suite(work) as running_suite:
            results = uvloop.run(
                compare(running_suite, rounds=options.rounds, seconds=options.seconds)
            )
            results.append(
                judge("router cold start", cold_start(running_suite, work), "s", "<= 2")
            )
    write_report(results, options.out)


if __name__ == "__main__":
    main()
