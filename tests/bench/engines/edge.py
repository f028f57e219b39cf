"""The edge service through gRPC, beside llama-server, beside `Llama`, beside itself without what is measured."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path

from tests.bench.engines.llama_server import install, running_server
from tests.bench.engines.load import (
    PROMPT_TOKENS,
    Answered,
    Ask,
    Caller,
    GrpcCaller,
    LlamaServerCaller,
    arrive,
    make_prompt,
    percentile,
    poisson_times,
    stream_together,
)
from tests.bench.peer_process import Asking, NoPeer, asked
from tests.bench.processes import running
from tests.bench.random_gguf import Size, write_random_gguf
from tests.bench.report import Result, judge, skip

from farthing.kit.testing import free_port

SLOT_COUNT = 16
CONTEXT = 1_024
_SHORT_CONTEXT = 512
_LONG_PROMPT_TOKENS = 768
_SHORT, _LONG = 48, 64


def make_model(folder: Path, weights: str) -> Path:
    """107 million parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_random_gguf(folder / f"bench-endless-{weights}.gguf", Size(), weights=weights)


@asynccontextmanager
async def serving(
    model: Path,
    work: Path,
    *,
    context_length: int = CONTEXT,
    slots: int = SLOT_COUNT,
    threads: int = 1,
    **env: str,
) -> AsyncIterator[GrpcCaller]:
    """The service as it ships, alone, and a caller of it."""
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "FARTHING_EDGE_MODEL": str(model),
        "FARTHING_EDGE_MODEL_NAME": "bench",
        "FARTHING_EDGE_CONTEXT": str(context_length),
        "FARTHING_EDGE_SLOTS": str(slots),
        "FARTHING_EDGE_THREADS": str(threads),
        "FARTHING_DATA_DIR": str(work / address),
        **env,
    }
    with running("farthing.edge", address, settings, log=work / f"{address}.log"):
        caller = GrpcCaller(address, "bench")
        try:
            yield caller
        finally:
            await caller.close()


async def measure_throughput(model: Path, work: Path, rounds: int) -> list[Result]:
    """Generated tokens per second of ours over llama-server's and over `Llama`'s.

    For short requests all have contexts of 512 tokens; for long ones, where the prompts count too, of 1,024.
    """
    results: list[Result] = []
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(
            serving(model, work, context_length=_SHORT_CONTEXT)
        )
        theirs = await stack.enter_async_context(_llama_server(model, work, _SHORT_CONTEXT))
        alone = stack.enter_context(_high_level(model))
        await stream_together(ours, SLOT_COUNT, max_tokens=8)
        for count in (1, 4, 8, SLOT_COUNT):
            results += await _compare(ours, theirs, rounds, f"at {count} streams", count)
        ratios = []
        for _ in range(rounds):
            rate, _ = await stream_together(ours, 8, max_tokens=_SHORT)
            ratios.append(rate / await asyncio.to_thread(alone, 4, _SHORT))
        results.append(
            judge("edge at 8 streams over Llama of llama-cpp-python", statistics.median(ratios), "x", ">= 2.2")
        )  # fmt: skip
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(serving(model, work))
        theirs = await stack.enter_async_context(_llama_server(model, work, CONTEXT))
        at = f"at 4 streams behind {_LONG_PROMPT_TOKENS} tokens"
        results += await _compare(ours, theirs, rounds, at, 4, _LONG_PROMPT_TOKENS)
    return results


async def _compare(
    ours: Caller,
    theirs: LlamaServerCaller | str,
    rounds: int,
    at: str,
    count: int,
    prompt_tokens: int = PROMPT_TOKENS,
    target: str = ">= 0.95",
) -> list[Result]:
    """The same load for both in turns."""
    mine, peers = list[float](), list[float]()
    turns: list[tuple[Caller, list[float]]] = [(ours, mine)]
    if not isinstance(theirs, str):
        turns.append((theirs, peers))
    # One stream is soon over, and so needs more turns for the same certainty.
    for number in range(rounds if count > 1 else 3 * rounds):
        for caller, kept in turns if number % 2 else reversed(turns):
            rate, _ = await stream_together(
                caller, count, max_tokens=_SHORT, prompt_tokens=prompt_tokens
            )
            kept.append(rate)
    results = [Result(f"edge tokens per second {at}", statistics.median(mine), "1/s")]
    name = f"edge over C++ llama-server {at}"
    if isinstance(theirs, str):
        return [*results, skip(name, target, theirs)]
    ratios = [a / b for a, b in zip(mine, peers, strict=True)]
    return [
        *results,
        Result(f"llama-server tokens per second {at}", statistics.median(peers), "1/s"),
        judge(name, statistics.median(ratios), "x", target),
    ]


@asynccontextmanager
async def _llama_server(
    model: Path, work: Path, context_length: int, thread_count: int = 1
) -> AsyncIterator[LlamaServerCaller | str]:
    """A caller of the peer, or why there is none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(
                running_server(
                    install(),
                    model,
                    slot_count=SLOT_COUNT,
                    context_length=context_length,
                    thread_count=thread_count,
                    log=work / f"llama-server-{context_length}.log",
                )
            )
        except NoPeer as error:
            print(f"\n*** NOT COMPARED WITH LLAMA-SERVER: {error} ***\n", file=sys.stderr)
            yield str(error)
            return
        print(f"llama-server: {server.version}, kernels for {server.variant}")
        caller = LlamaServerCaller(server.url)
        try:
            yield caller
        finally:
            await caller.close()


async def measure_neighbours(model: Path, work: Path, rounds: int) -> list[Result]:
    """Two threads beside four busy processes: ours against llama-server, which keeps both and spins."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(
            serving(model, work, context_length=_SHORT_CONTEXT, threads=2)
        )
        theirs = await stack.enter_async_context(
            _llama_server(model, work, _SHORT_CONTEXT, thread_count=2)
        )
        await stream_together(ours, 4, max_tokens=_LONG)
        stack.enter_context(_busy_neighbours(4))
        return await _compare(
            ours,
            theirs,
            rounds,
            "beside 4 busy processes, 2 threads, 4 streams",
            4,
            target=">= 3",
        )


async def measure_reuse(model: Path, work: Path, rounds: int) -> list[Result]:
    """First token behind 512 tokens that another request of the tenant had, over one that nobody had."""
    async with serving(model, work) as ours:
        known = make_prompt(512)
        await ours(Ask(make_prompt(544, known), 2))
        fresh, reused = [], []
        for _ in range(2 * rounds):
            fresh.append((await ours(Ask(make_prompt(544), 2))).first_s)
            reused.append((await ours(Ask(make_prompt(544, known), 2))).first_s)
    ratios = [a / b for a, b in zip(reused, fresh, strict=True)]
    return [
        Result("first token after 544 new tokens", 1000 * statistics.median(fresh), "ms"),
        Result("first token after 512 known and 32 new tokens", 1000 * statistics.median(reused), "ms"),
        judge("first token with a shared beginning over without", statistics.median(ratios), "x", "<= 0.25"),
    ]  # fmt: skip


async def measure_latency(model: Path, work: Path, rounds: int) -> list[Result]:
    """Arrivals at 80 % of what the service can do: first tokens against one request at a time; classes apart."""
    results: list[Result] = []
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(serving(model, work))
        alone = await stack.enter_async_context(serving(model, work, slots=1))
        # The best of several: foreign load would make it less, and the arrivals then too few to wait for each other.
        capacity = max(
            [(await stream_together(ours, SLOT_COUNT, max_tokens=_LONG))[0] for _ in range(3)]
        )
        request_count = 16 * rounds
        rate = 0.8 * capacity / _LONG
        asks = [Ask(make_prompt(), _LONG) for _ in range(request_count)]
        times = poisson_times(rate, request_count, seed=5)
        batched = _first_ms(await arrive(ours, asks, times))
        asks = [Ask(make_prompt(), _LONG) for _ in range(request_count)]
        queued = _first_ms(await arrive(alone, asks, times))
        at = f"{rate:.2f} requests/s, 80 % of capacity"
        results += [
            Result(f"p99 first token, {at}", percentile(batched, 99), "ms"),
            Result(f"p99 first token, one at a time, {at}", percentile(queued, 99), "ms"),
            judge(
                "p99 first token over one at a time",
                percentile(batched, 99) / percentile(queued, 99), "x", "<= 0.5",
            ),
        ]  # fmt: skip
        results += await _measure_classes(ours, capacity, 16 * rounds)
    return results


async def _measure_classes(
    ours: GrpcCaller, capacity: float, request_count: int
) -> list[Result]:
    """Interactive requests at a third of capacity, without and with as much of the batch class as there is room for."""
    rate = capacity / _LONG / 3
    times = poisson_times(rate, request_count, seed=6)

    async def interactive() -> list[float]:
        asks = [Ask(make_prompt(), _LONG, "INTERACTIVE") for _ in range(request_count)]
        return _first_ms(await arrive(ours, asks, times))

    async def saturate() -> None:
        while True:
            await ours(Ask(make_prompt(), 4 * _LONG, "BATCH"))

    quiet = await interactive()
    load = [asyncio.create_task(saturate()) for _ in range(2 * SLOT_COUNT)]
    await ours.until_running(SLOT_COUNT)
    beside = await interactive()
    for task in load:
        task.cancel()
    for ended in await asyncio.gather(*load, return_exceptions=True):
        if isinstance(ended, Exception):  # the load was not what it is said to be
            raise ended
    return [
        Result("p99 first token, interactive alone", percentile(quiet, 99), "ms"),
        Result("p99 first token, interactive beside saturating batch", percentile(beside, 99), "ms"),
        Result("p50 first token, interactive alone", percentile(quiet, 50), "ms"),
        Result("p50 first token, interactive beside saturating batch", percentile(beside, 50), "ms"),
        judge(
            "p99 first token of interactive beside saturating batch over alone",
            percentile(beside, 99) / percentile(quiet, 99), "x", "<= 1.2",
        ),
    ]  # fmt: skip


async def measure_leaving(model: Path, work: Path, rounds: int) -> list[Result]:
    """From a caller's going away, one of eight, until the service computes seven: looked at without a pause."""
    freed_ms = []
    async with serving(model, work) as ours:
        for _ in range(6 * rounds):
            asks = [Ask(make_prompt(), 4 * _LONG) for _ in range(8)]
            calls = [ours.begin(ask) for ask in asks]
            await asyncio.gather(*(call.read() for call in calls))
            before = await ours.running_count()
            calls[0].cancel()
            left_s = time.monotonic()
            while await ours.running_count() >= before:
                pass
            freed_ms.append(1000 * (time.monotonic() - left_s))
            for call in calls[1:]:
                call.cancel()
            while await ours.running_count():
                pass
    return [
        Result("slot free after its caller left, p50", percentile(freed_ms, 50), "ms"),
        judge("slot free after its caller left, p99", percentile(freed_ms, 99), "ms", "<= 100"),
    ]


async def measure_overhead(model: Path, work: Path, rounds: int) -> list[Result]:
    """What gRPC, process and scheduler add to a step of 8 rows: time between tokens over bare steps."""
    served, bare = [], []
    async with serving(model, work) as ours:
        with _bare_steps(model) as step_ms:
            for _ in range(rounds):
                # Of a class whose every token is told at once.
                _, answers = await stream_together(ours, 8, max_tokens=96, priority="STANDARD")
                served.append(_interval_ms(answers))
                bare.append(await asyncio.to_thread(step_ms, 8, 64))
    shares = [100 * (a - b) / a for a, b in zip(served, bare, strict=True)]
    return [
        Result("time between tokens at 8 streams", statistics.median(served), "ms"),
        Result("the library's step of 8 rows", statistics.median(bare), "ms"),
        judge("all that is not the library's step, at 8 streams", statistics.median(shares), "%", "<= 5"),
    ]  # fmt: skip


def _first_ms(answers: Sequence[Answered]) -> list[float]:
    return [1000 * answer.first_s for answer in answers]


def _interval_ms(answers: Sequence[Answered]) -> float:
    """Median time between a stream's tokens while all streams run; the first ones wait for other prompts."""
    begun = max(answer.told_s[0] for answer in answers)
    ended = min(answer.told_s[-1] for answer in answers)
    spans = [
        1000 * (later - earlier)
        for answer in answers
        for earlier, later in zip(answer.told_s, answer.told_s[1:], strict=False)
        if begun < earlier and later < ended
    ]
    return statistics.median(spans)


@contextmanager
def _high_level(model: Path) -> Iterator[Callable[[int, int], float]]:
    with _asked("tests.bench.engines.high_level", model) as ask:

        def measure(count: int, max_tokens: int) -> float:
            prompts = [make_prompt() for _ in range(count)]
            answer = ask({"prompts": prompts, "max_tokens": max_tokens})
            return float(answer["tokens_per_second"])

        yield measure


@contextmanager
def _bare_steps(model: Path) -> Iterator[Callable[[int, int], float]]:
    with _asked("tests.bench.engines.bare_steps", model) as ask:

        def measure(rows: int, count: int) -> float:
            answer = ask({"rows": rows, "start": PROMPT_TOKENS, "count": count})
            return float(answer["step_ms"])

        yield measure


def _asked(module: str, model: Path) -> AbstractContextManager[Asking]:
    """A process of the library alone, on one thread."""
    command = [sys.executable, "-m", module, str(model), str(CONTEXT), "1"]
    return asked(command, GOMP_SPINCOUNT="10000")


@contextmanager
def _busy_neighbours(count: int) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
