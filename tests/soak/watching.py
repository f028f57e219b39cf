"""What can be seen of a running service from outside: its processes' memory, and its metrics."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tests.bench.processes import rss_mib
from tests.soak.verdict import Counters, Sample

from farthing.kit.telemetry import names

_EVERY_S = 0.5


async def watch_memory(pids: Mapping[str, int], into: dict[str, list[Sample]]) -> None:
    """Add a sample of each process twice a second, until cancelled."""
    started_s = time.monotonic()
    while True:
        for name, pid in pids.items():
            sample = Sample(time.monotonic() - started_s, round(rss_mib(pid) * 2**20))
            into.setdefault(name, []).append(sample)
        await asyncio.sleep(_EVERY_S)


async def read_counters(url: str) -> Counters:
    """What the metrics say now, of all models together."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        response.raise_for_status()
        text = await response.text()
    sums: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                sums[sample.name.removesuffix("_total")] += sample.value
    return Counters(
        busy_us=round(1e6 * sums[names.METRIC_INFERENCE_BUSY]),
        compute_us=round(1e6 * sums[names.METRIC_INFERENCE_COMPUTE]),
        step_count=round(sums[names.METRIC_INFERENCE_STEPS]),
        lost_step_count=round(sums[names.METRIC_INFERENCE_LOST_STEPS]),
        restart_count=round(sums[names.METRIC_INFERENCE_RESTARTS]),
        running_count=round(sums[names.METRIC_INFERENCE_RUNNING]),
        queued_count=round(sums[names.METRIC_INFERENCE_QUEUED]),
        kv_token_count=round(sums[names.METRIC_INFERENCE_KV_TOKENS]),
        cached_token_count=round(sums[names.METRIC_INFERENCE_CACHED_TOKENS]),
    )


async def read_idle_counters(url: str, *, patience_s: float) -> Counters:
    """The counters of an engine that has just lost its last caller: the first that show it idle, or the last."""
    deadline_s = time.monotonic() + patience_s
    while True:
        await asyncio.sleep(_EVERY_S)  # longer than between two of the engine's reports
        counters = await read_counters(url)
        is_idle = not (counters.running_count or counters.queued_count)
        if is_idle or time.monotonic() > deadline_s:
            return counters


def log_end(path: Path) -> str:
    """The last lines of a log, for who reads why something failed."""
    return path.read_text(errors="replace")[-2_000:]
