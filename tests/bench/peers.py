"""The whole way of a chat completion, gateway and router, against LiteLLM's proxy: CPU, memory, start.

LiteLLM has one model, an API key to check and no database; here quota, cache, ledger and tracing are on. Both answer
the same bodies from engines that answer at once; the engines' own CPU counts on neither side.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop
from tests.bench.callers import Callers, HttpCaller
from tests.bench.litellm_proxy import Proxy, install, running_proxy
from tests.bench.peer_process import NoPeer
from tests.bench.processes import rss_mib
from tests.bench.report import Result, judge, skip
from tests.bench.suite import Suite
from tests.bench.windows import Call, Window, measure, median_of, median_ratio

_CONCURRENCIES = (1, 16)
_STREAM_CONCURRENCY = 8
_STREAM = "streamed at concurrency 8"
# Places in the process lists below.
_ROUTER, _GATEWAY = 0, 1

GRPC = "LiteLLM CPU per request over router CPU, gRPC path, {at}"
HTTP = "LiteLLM CPU per request over gateway and router CPU, HTTP path, {at}"
_TARGETS = {
    name.format(at=f"at concurrency {concurrency}"): target
    for concurrency in _CONCURRENCIES
    for name, target in ((GRPC, ">= 8"), (HTTP, ">= 4"))
}


@dataclass(frozen=True, slots=True)
class Variant:
    """How to call one server, and the processes whose CPU counts."""

    call: Call
    pids: tuple[int, ...]


def compare_with_litellm(
    running_suite: Suite,
    work: Path,
    *,
    rounds: int,
    seconds: float,
    start_s: Callable[[], tuple[float, float]],
    with_litellm: bool,
) -> list[Result]:
    """All figures of the gateway, and the comparison unless LiteLLM cannot be had.

    `start_s` measures the starts of a router and a gateway, next to LiteLLM's.
    """
    with ExitStack() as stack:
        proxy, skipped = None, "left out by --no-litellm"
        starts_s: list[float] = []
        if with_litellm:
            try:
                command = install()
                with running_proxy(command, work / "first") as first:
                    starts_s.append(first.start_s)
                proxy = stack.enter_context(running_proxy(command, work / "second"))
                starts_s.append(proxy.start_s)
            except NoPeer as error:
                skipped = str(error)
        results = uvloop.run(_compare(running_suite, proxy, rounds=rounds, seconds=seconds))
        router_s, gateway_s = start_s()
        results.append(Result("gateway cold start", round(gateway_s, 3), "s"))
        if proxy is None:
            print(f"\n*** NOT COMPARED WITH LITELLM: {skipped} ***\n", file=sys.stderr)
            results += [
                skip(name, target, skipped.splitlines()[0]) for name, target in _TARGETS.items()
            ]
        else:
            least = min(starts_s)
            results += [
                Result("LiteLLM cold start, better of two", round(least, 3), "s"),
                Result(
                    "LiteLLM cold start over router's and gateway's, one after the other",
                    least / (router_s + gateway_s),
                    "x",
                ),
            ]
    return results


async def _compare(
    suite: Suite, proxy: Proxy | None, *, rounds: int, seconds: float
) -> list[Result]:
    services = (suite.quota.pid, suite.cache.pid, suite.ledger.pid)
    ours = (suite.router.pid, suite.gateway.pid, *services)
    async with AsyncExitStack() as stack:
        callers = Callers(suite)
        stack.push_async_callback(callers.close)
        gateway = HttpCaller(f"http://{suite.gateway_address}", suite.key, "auto")
        stack.push_async_callback(gateway.close)
        whole = {
            "grpc": Variant(callers.router, ours),
            "http": Variant(gateway.whole, ours),
        }
        streamed = {"http": Variant(gateway.stream, ours)}
        if proxy is not None:
            litellm = HttpCaller(proxy.url, proxy.key, proxy.model)
            stack.push_async_callback(litellm.close)
            pids = (proxy.process.pid,)
            whole["litellm"] = Variant(litellm.whole, pids)
            streamed["litellm"] = Variant(litellm.stream, pids)
        results: list[Result] = []
        for variant in (*whole.values(), *streamed.values()):  # first calls import and connect
            await measure(variant.call, variant.pids, concurrency=8, seconds=1.0)
        for concurrency in _CONCURRENCIES:
            taken = await _take(whole, rounds, concurrency, seconds)
            results += _describe_whole(taken, f"at concurrency {concurrency}")
        results += _describe_streams(
            await _take(streamed, rounds, _STREAM_CONCURRENCY, seconds)
        )
        memory_mib = rss_mib(suite.router.pid) + rss_mib(suite.gateway.pid)
        results.append(Result("gateway memory after load", rss_mib(suite.gateway.pid), "MiB"))
        if proxy is not None:
            peer_mib = rss_mib(proxy.process.pid)
            results += [
                Result("LiteLLM memory after load", peer_mib, "MiB"),
                Result(
                    "LiteLLM memory over gateway's and router's", peer_mib / memory_mib, "x"
                ),
            ]
        return results


async def _take(
    variants: dict[str, Variant], rounds: int, concurrency: int, seconds: float
) -> dict[str, list[Window]]:
    """Windows of all variants by turns, so that foreign load meets all of them."""
    taken: dict[str, list[Window]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            taken[name].append(
                await measure(
                    variant.call, variant.pids, concurrency=concurrency, seconds=seconds
                )
            )
    return taken


def _both(window: Window) -> float:
    return window.part_us_per_call(_ROUTER, _GATEWAY)


def _describe_whole(taken: dict[str, list[Window]], at: str) -> list[Result]:
    http, grpc = taken["http"], taken["grpc"]
    added = statistics.median(a.p50_ms - b.p50_ms for a, b in zip(http, grpc, strict=True))
    results = [
        Result(
            f"gateway CPU per chat completion {at}",
            round(median_of(http, lambda window: window.part_us_per_call(_GATEWAY))),
            "us",
        ),
        Result(
            f"gateway and router CPU per chat completion {at}",
            round(median_of(http, _both)),
            "us",
        ),
        Result(f"gateway's added p50 over the router's {at}", round(added, 3), "ms"),
    ]
    if "litellm" not in taken:
        return results
    peer = taken["litellm"]
    peer_us = [window.cpu_us_per_call for window in peer]

    def over(windows: list[Window], pick: Callable[[Window], float]) -> float:
        pairs = zip(peer_us, windows, strict=True)
        return statistics.median(us / pick(window) for us, window in pairs)

    named = {name.format(at=at): windows for name, windows in ((GRPC, grpc), (HTTP, http))}
    by_grpc, by_http = named
    return [
        *results,
        Result(f"LiteLLM CPU per request {at}", round(statistics.median(peer_us)), "us"),
        judge(
            by_grpc,
            over(grpc, lambda window: window.part_us_per_call(_ROUTER)),
            "x",
            _TARGETS[by_grpc],
        ),
        judge(by_http, over(http, _both), "x", _TARGETS[by_http]),
        Result(
            f"the same with quota, cache and ledger counted too {at}",
            over(http, lambda window: window.cpu_us_per_call),
            "x",
        ),
        Result(
            f"LiteLLM p50 over gateway's {at}",
            median_ratio(peer, http, lambda window: window.p50_ms),
            "x",
        ),
    ]


def _describe_streams(taken: dict[str, list[Window]]) -> list[Result]:
    http = taken["http"]
    results = [
        Result(
            f"gateway and router CPU per chat completion {_STREAM}",
            round(median_of(http, _both)),
            "us",
        )
    ]
    if "litellm" in taken:
        peer = taken["litellm"]
        ratio = statistics.median(
            a.cpu_us_per_call / _both(b) for a, b in zip(peer, http, strict=True)
        )
        results += [
            Result(
                f"LiteLLM CPU per request {_STREAM}",
                round(median_of(peer, lambda window: window.cpu_us_per_call)),
                "us",
            ),
            Result(
                f"LiteLLM CPU per request over gateway and router CPU, {_STREAM}", ratio, "x"
            ),
        ]
    return results
