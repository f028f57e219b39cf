"""The cloud service on the CPU through gRPC, beside onnxruntime-genai and beside itself with one request at a time."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.bench.engines.genai import make_model, running_worker
from tests.bench.engines.load import Ask, GrpcCaller, arrive, make_prompt, stream_together
from tests.bench.peer_process import Asking, NoPeer
from tests.bench.processes import running
from tests.bench.report import Result, judge, skip

from farthing.cloud.attention import measure_ways
from farthing.cloud.runtime import load_runtime, quiet_options
from farthing.kit.testing import free_port

_TOKENS, _PROMPT = 48, 32
_STAGGER_S = 0.05  # sooner than either engine can answer: what is measured is not the arrivals


@asynccontextmanager
async def serving(model: Path, work: Path, *, slots: int) -> AsyncIterator[GrpcCaller]:
    """The service as it ships, alone, on one thread, and a caller of it."""
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "FARTHING_CLOUD_MODEL": str(model),
        "FARTHING_CLOUD_MODEL_NAME": "bench",
        "FARTHING_CLOUD_DEVICE": "cpu",
        "FARTHING_CLOUD_SLOTS": str(slots),
        "FARTHING_CLOUD_THREADS": "1",
        "FARTHING_DATA_DIR": str(
            work / "cloud"
        ),  # the rewritten graph is kept for the second service
    }
    with running("farthing.cloud", address, settings, log=work / f"{address}.log"):
        caller = GrpcCaller(address, "bench", (0,))
        try:
            yield caller
        finally:
            await caller.close()


async def measure_cloud(folder: Path, work: Path, rounds: int) -> list[Result]:
    """All figures of the cloud tier on the CPU."""
    model = await asyncio.to_thread(make_model, folder)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(serving(model, work, slots=16))
        alone = await stack.enter_async_context(serving(model, work, slots=1))
        # Rows take memory when they are first written to, those of slots left free too.
        for _ in range(2):
            await stream_together(ours, 16, max_tokens=8)
            await stream_together(alone, 2, max_tokens=8)
        try:
            ask = stack.enter_context(running_worker(model, 1))
            ask({"kind": "generator", "rows": 1, "prompt": 8, "tokens": 2})
        except NoPeer as error:
            print(f"\n*** NOT COMPARED WITH ONNXRUNTIME-GENAI: {error} ***\n", file=sys.stderr)
            why = str(error).splitlines()[0]
            results = [
                skip("cloud at 8 streams over genai's Generator", ">= 0.95", why),
                skip("cloud at 16 staggered arrivals over genai's Engine", ">= 1.8", why),
            ]
        else:
            results = [
                *await _against_generator(ours, ask, rounds),
                *await _against_engine(ours, ask, rounds),
            ]
        ratios, rates = [], []
        for _ in range(max(2, rounds // 2)):
            rate, _ = await stream_together(ours, 8, max_tokens=_TOKENS)
            single, _ = await stream_together(alone, 8, max_tokens=_TOKENS)
            rates.append(rate)
            ratios.append(rate / single)
    tiled_us, plain_us = await asyncio.to_thread(_measure_attention)
    return [
        *results,
        Result(
            "attention of 16 rows behind 264 tokens, plain over tiled", plain_us / tiled_us, "x"
        ),
        Result("cloud tokens per second at 8 streams", statistics.median(rates), "1/s"),
        judge("cloud at 8 streams over one at a time", statistics.median(ratios), "x", ">= 3"),
    ]


def _measure_attention() -> tuple[float, float]:
    runtime = load_runtime()
    return measure_ways(runtime, lambda: quiet_options(runtime, 1))


async def _against_generator(ours: GrpcCaller, ask: Asking, rounds: int) -> list[Result]:
    asked = {"kind": "generator", "rows": 8, "prompt": _PROMPT, "tokens": _TOKENS}
    ratios = []
    for _ in range(rounds):
        rate, _ = await stream_together(ours, 8, max_tokens=_TOKENS)
        answer = await asyncio.to_thread(ask, asked)
        ratios.append(rate / answer["tokens_per_second"])
    name = "cloud at 8 streams over genai's Generator"
    return [judge(name, statistics.median(ratios), "x", ">= 0.95")]


async def _against_engine(ours: GrpcCaller, ask: Asking, rounds: int) -> list[Result]:
    at_s = [_STAGGER_S * place for place in range(16)]
    name = "cloud at 16 staggered arrivals over genai's Engine"
    rates, peers, firsts_ms = [], [], []
    try:
        for _ in range(rounds):
            started_s = time.monotonic()
            answers = await arrive(
                ours, [Ask(make_prompt(), _TOKENS, "BATCH") for _ in at_s], at_s
            )
            firsts_ms.append(1000 * statistics.median(answer.first_s for answer in answers))
            count = sum(answer.token_count for answer in answers)
            rates.append(count / (time.monotonic() - started_s))
            asked = {"kind": "engine", "at_s": at_s, "prompt": _PROMPT, "tokens": _TOKENS}
            answer = await asyncio.to_thread(ask, asked)
            peers.append(answer["tokens_per_second"])
    except NoPeer as error:
        return [skip(name, ">= 1.8", str(error).splitlines()[0])]
    at = "at 16 staggered arrivals"
    ratios = [a / b for a, b in zip(rates, peers, strict=True)]
    return [
        Result(f"p50 first token {at}", statistics.median(firsts_ms), "ms"),
        Result(f"cloud tokens per second {at}", statistics.median(rates), "1/s"),
        Result(f"genai's Engine tokens per second {at}", statistics.median(peers), "1/s"),
        judge(name, statistics.median(ratios), "x", ">= 1.8"),
    ]
