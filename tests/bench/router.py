"""What the router and the gateway add: CPU against a bare echo, latency against calling the engine directly, memory,
start, tracing; and the same of LiteLLM's proxy. See docs/performance.md.

Run with `make bench-router`. Windows of every variant are interleaved, so that foreign load meets all of them; each
figure is the median over rounds of a ratio within one round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from tests.bench.callers import STREAM_TOKENS, Callers
from tests.bench.peers import compare_with_litellm
from tests.bench.processes import answers_http, rss_mib, running
from tests.bench.report import Result, judge, write_report
from tests.bench.suite import Suite, suite
from tests.bench.windows import (
    Call,
    Window,
    measure,
    measure_together,
    median_of,
    median_ratio,
)

from farthing.kit.testing import free_port

ROUTER, GATEWAY = "farthing.router", "farthing.gateway"
# By then the last spans of a window are on their way: they belong to its calls.
_EXPORTED_S = 1.2


async def compare(running_suite: Suite, *, rounds: int, seconds: float) -> list[Result]:
    """The router's figures."""
    callers = Callers(running_suite)
    router = running_suite.router.pid
    results: list[Result] = []
    variants: dict[str, tuple[Call, int, float]] = {
        "echo": (callers.echo, running_suite.echo.pid, 0.0),
        "router": (callers.router, router, _EXPORTED_S),
        "backend": (callers.backend, running_suite.backend.pid, 0.0),
    }
    plain = (callers.plain, running_suite.router_plain.pid, 0.0)
    for call, pid, _ in (*variants.values(), plain):
        await measure(call, [pid], concurrency=4, seconds=0.5)
    for concurrency in (1, 16):
        taken: dict[str, list[Window]] = {name: [] for name in variants}
        for number in range(rounds):
            # Forth and back by turns, so that none always comes first.
            order = list(variants.items())
            for name, (call, pid, after_s) in order[:: -1 if number % 2 else 1]:
                window = await measure(
                    call, [pid], concurrency=concurrency, seconds=seconds, after_s=after_s
                )
                taken[name].append(window)
        echoes, routed = taken["echo"], taken["router"]
        at = f"at concurrency {concurrency}"
        results += [
            Result(f"echo CPU per request {at}", round(median_of(echoes, _cpu_us)), "us"),
            Result(f"router CPU per request {at}", round(median_of(routed, _cpu_us)), "us"),
            judge(
                f"router CPU over bare echo {at}",
                median_ratio(routed, echoes, _cpu_us),
                "x",
                "<= 5.5",
            ),
            await compare_tracing(
                callers,
                running_suite,
                rounds=rounds,
                seconds=3 * seconds,
                concurrency=concurrency,
            ),
            Result(
                f"router requests per second {at}",
                statistics.median(window.calls for window in routed) / seconds,
                "1/s",
            ),
        ]
        added = statistics.median(
            a.p50_ms - b.p50_ms for a, b in zip(routed, taken["backend"], strict=True)
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


async def compare_tracing(
    callers: Callers, running_suite: Suite, *, rounds: int, seconds: float, concurrency: int
) -> Result:
    """A router with tracing beside one without, each with so many callers, at the same time."""
    routers = [
        (callers.router, running_suite.router.pid),
        (callers.plain, running_suite.router_plain.pid),
    ]
    traced, plain = [], []
    for _ in range(rounds):
        one, other = await measure_together(
            routers, concurrency=concurrency, seconds=seconds, after_s=_EXPORTED_S
        )
        traced.append(one)
        plain.append(other)
    ratio = median_ratio(traced, plain, _cpu_us)
    return judge(
        f"tracing on over off, CPU at concurrency {concurrency}", ratio, "x", "<= 1.10"
    )


async def compare_streams(
    callers: Callers, running_suite: Suite, *, rounds: int, seconds: float
) -> list[Result]:
    """CPU per streamed token, beyond what a request without tokens costs."""
    pids = [running_suite.router.pid]
    bare, few, many = [], [], []
    for _ in range(rounds):
        bare.append(await measure(callers.router, pids, concurrency=8, seconds=seconds))
        few.append(await measure(callers.stream, pids, concurrency=8, seconds=seconds))
        many.append(await measure(callers.stream, pids, concurrency=32, seconds=seconds))

    def per_token(windows: list[Window]) -> float:
        return statistics.median(
            max(0.0, a.cpu_us_per_call - b.cpu_us_per_call) / STREAM_TOKENS
            for a, b in zip(windows, bare, strict=True)
        )

    return [
        judge("router CPU per streamed token", per_token(few), "us", "<= 150"),
        judge("router CPU per streamed token, coalesced", per_token(many), "us", "<= 50"),
    ]


def cold_start(module: str, running_suite: Suite, work: Path) -> float:
    """Seconds from exec to ready, the median of five."""
    spans = []
    for number in range(5):
        address = f"127.0.0.1:{free_port()}"
        env = {**running_suite.environment, "FARTHING_DATA_DIR": str(work / f"cold-{number}")}
        ready = None
        if module == GATEWAY:
            env["FARTHING_ROUTER_ADDRESS"] = running_suite.router_address
            ready = partial(answers_http, f"http://{address}/healthz")
        started = time.monotonic()
        with running(module, address, env, log=work / "cold.log", ready=ready):
            spans.append(time.monotonic() - started)
    return statistics.median(spans)


def _cpu_us(window: Window) -> float:
    return window.cpu_us_per_call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("build/bench/router.json"))
    parser.add_argument(
        "--no-litellm", action="store_true", help="skip the comparison with LiteLLM"
    )
    parser.add_argument("--only", choices=("router", "gateway"), help="measure one part")
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        work = Path(directory)
        with suite(work) as running_suite:
            results = [Result("load average before", os.getloadavg()[0], "")]
            if options.only != "gateway":
                results += uvloop.run(
                    compare(running_suite, rounds=options.rounds, seconds=options.seconds)
                )
            router_s = cold_start(ROUTER, running_suite, work)
            results.append(judge("router cold start", router_s, "s", "<= 2"))
            if options.only != "router":
                results += compare_with_litellm(
                    running_suite,
                    work,
                    rounds=options.rounds,
                    seconds=options.seconds,
                    start_s=lambda: (router_s, cold_start(GATEWAY, running_suite, work)),
                    with_litellm=not options.no_litellm,
                )
    results.append(Result("load average after", os.getloadavg()[0], ""))
    write_report(results, options.out)


if __name__ == "__main__":
    main()
