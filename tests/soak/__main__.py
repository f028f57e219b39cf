"""Hours of mixed load in as many minutes as wanted, and what must still be true then: `python -m tests.soak`."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from tests.bench.report import Result, judge, write_report
from tests.soak import tiers
from tests.soak.callers import Callers
from tests.soak.kept_tokens import find_kept_faults
from tests.soak.lines import KeptCall
from tests.soak.mixture import Mixture, Way
from tests.soak.verdict import (
    Sample,
    drift_ratio,
    find_engine_faults,
    find_memory_faults,
    unbilled_ratio,
)
from tests.soak.watching import log_end, read_idle_counters, watch_memory

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from farthing.kit.rpc.channel import open_channel

# As many as there are slots and places in the line; requests with several candidates make it more, so some are refused.
CALLER_COUNT = 30
_WARM_SHARE = 0.3
_TIERS: dict[str, tuple[Callable[[Path], AbstractContextManager[tiers.Tier]], str]] = {
    "edge": (tiers.edge, "llama_cpp"),
    "cloud": (tiers.cloud, "onnxruntime"),
}


async def soak(tier: tiers.Tier, seconds: float, seed: int) -> tuple[list[Result], list[str]]:
    """Load one service; figures and faults."""
    channel = open_channel(tier.address)
    stub = InferenceServiceStub(channel)
    kept_call = KeptCall(stub)
    try:
        model = (await stub.ListModels(pb.ListModelsRequest())).models[0]
        callers = Callers(stub, kept_call, Mixture(model, seed))
        await callers.fill(2 * tiers.SLOT_COUNT)
        memory: dict[str, list[Sample]] = {}
        watcher = asyncio.create_task(watch_memory(tier.processes(), memory))
        try:
            await callers.run(CALLER_COUNT, seconds)
        finally:
            watcher.cancel()
        counters = await read_idle_counters(tier.metrics_url, patience_s=10)
        faults = callers.faults + find_engine_faults(counters, callers.embed_us)
        if not counters.running_count + counters.queued_count:
            faults += await find_kept_faults(
                stub, model, tier.metrics_url, slot_count=tiers.SLOT_COUNT
            )
    finally:
        await kept_call.close()
        await channel.close()
    name = tier.name
    unbilled_percent = 100 * abs(unbilled_ratio(counters, callers.embed_us))
    results = [
        Result(f"{name} requests", callers.counts.total(), ""),
        Result(f"{name} requests that were left", callers.counts[Way.LEAVE] + callers.counts[Way.LEAVE_EARLY], ""),
        Result(f"{name} requests refused for load", callers.refused_count, ""),
        Result(f"{name} tokens to the end of answers", callers.token_count, ""),
        Result(f"{name} steps", counters.step_count, ""),
        judge(f"{name} busy time that nobody was charged with", unbilled_percent, "%", "<= 1"),
    ]  # fmt: skip
    for process, samples in memory.items():
        drift = drift_ratio(samples, warm_s=_WARM_SHARE * seconds)
        faults += find_memory_faults(process, drift)
        results += [
            Result(f"{process}'s memory at the end", samples[-1].rss_bytes / 2**20, "MiB"),
            judge(f"{process}'s memory, furthest from warm", 100 * abs(drift), "%", "<= 2"),
        ]
    return results, faults


async def soak_all(
    names: list[str], seconds: float, seed: int, work: Path
) -> tuple[list[Result], list[str]]:
    """One tier after the other, each for as long."""
    results: list[Result] = []
    faults: list[str] = []
    for name in names:
        serve, library = _TIERS[name]
        if importlib.util.find_spec(library) is None:
            print(f"*** {name} is left out: {library} is not installed ***", file=sys.stderr)
            continue
        print(f"{name}: {seconds / 60:g} minutes of load …", flush=True)
        with serve(work) as tier:
            found, wrong = await soak(tier, seconds, seed)
            results += found
            faults += [f"{name}: {fault}" for fault in wrong]
            if wrong:
                print(log_end(work / f"{name}.log"), file=sys.stderr)
    return results, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiers", nargs="*", default=list(_TIERS), help=", ".join(_TIERS))
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of load, for all tiers together"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/bench/soak.json"))
    options = parser.parse_args()
    if unknown := set(options.tiers) - set(_TIERS):
        parser.error(f"there is no tier {', '.join(sorted(unknown))}; take {', '.join(_TIERS)}")
    seconds = 60 * options.minutes / len(options.tiers)
    results = [Result("load average before", os.getloadavg()[0], "")]
    with TemporaryDirectory() as work:
        found, faults = uvloop.run(soak_all(options.tiers, seconds, options.seed, Path(work)))
    results += [*found, Result("load average after", os.getloadavg()[0], "")]
    write_report(results, options.out)
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    print("the soak failed" if faults else "the soak holds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
