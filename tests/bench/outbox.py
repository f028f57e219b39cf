"""What an outbox entry costs: run `python -m tests.bench.outbox` from the repository's root.

`--beside CHECKOUT` measures the outbox of another checkout too, in turns with this one. `--busy-disk` has another
process write to the same disk meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from farthing.clients.outbox import Outbox
from farthing.kit.clock import SystemClock

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("protos", "services", "edge", "cloud")
# A settlement and a charge as the router makes them.
SETTLEMENT, CHARGE = b"s" * 60, b"c" * 400
PACE_S = 0.002
WAYS = ("append", "normal", "pair", "paced pair", "full")
NO_OUTBOX = "paced, no outbox"
ENTRIES = {
    "append": 10_000,
    "normal": 10_000,
    "pair": 10_000,
    "paced pair": 1_000,
    "full": 1_000,
}
_Step = Callable[[int], Awaitable[None]]


async def _deliver(entries: Sequence[Any]) -> Mapping[Any, str]:
    await asyncio.sleep(0)  # a call over the network lets others run
    return {}


def _step(outbox: Outbox, way: str) -> _Step:
    """What an appender does over and over: its entries are delivered meanwhile."""

    async def append(n: int) -> None:
        outbox.append("charge", f"charge_{n}", CHARGE)
        await asyncio.sleep(0)

    async def durable(n: int) -> None:
        await outbox.append_durable("charge", f"charge_{n}", CHARGE)

    async def pair(n: int) -> None:
        outbox.append("quota.settle", f"hold_{n}", SETTLEMENT)
        await outbox.append_durable("charge", f"charge_{n}", CHARGE)

    async def nothing(n: int) -> None: ...

    steps: dict[str, _Step] = {
        "append": append,
        "pair": pair,
        "paced pair": pair,
        NO_OUTBOX: nothing,
    }
    return steps.get(way, durable)


async def _run(folder: Path, way: str, concurrency: int, count: int) -> dict[str, float]:
    outbox = Outbox(
        folder / "outbox",
        clock=SystemClock(),
        max_entry_count=10**7,
        synchronous="full" if way == "full" else "normal",
    )
    await outbox.open()
    for kind in ("charge", "quota.settle"):
        outbox.attach(kind, _deliver)
    step, pace_s = _step(outbox, way), PACE_S if "paced" in way else 0.0
    numbers, waits_us = iter(range(count)), []

    async def appender() -> None:
        for n in numbers:
            began = time.perf_counter_ns()
            await step(n)
            waits_us.append((time.perf_counter_ns() - began) / 1000)
            if pace_s:
                await asyncio.sleep(pace_s)
            elif not n % 8:
                await asyncio.sleep(0)  # as whoever awaits anything else lets others run

    # As kit.process sets it for a service.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    began = time.process_time()
    await asyncio.gather(*(appender() for _ in range(concurrency)))
    await outbox.drained()
    cpu_us = (time.process_time() - began) * 1e6 / count
    await outbox.close()
    waits_us.sort()
    return {
        "cpu": cpu_us,
        "p50": waits_us[len(waits_us) // 2],
        "p99": waits_us[len(waits_us) * 99 // 100],
        "max": waits_us[-1],
    }


def _child(way: str, concurrency: int, folder: str) -> None:
    count = ENTRIES.get(way, ENTRIES["paced pair"]) * min(concurrency, 4)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        print(json.dumps(uvloop.run(_run(Path(own), way, concurrency, count))))


def _measure(checkout: Path, way: str, concurrency: int, folder: str) -> dict[str, float]:
    paths = [str(checkout / root) for root in ROOTS] + [str(ROOT)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.outbox", "--child", way, str(concurrency), folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


_WRITER = """
import os, sys
block = os.urandom(1 << 20)
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(block)
        if file.tell() >= 1 << 30:
            file.seek(0)
"""


def _busy_disk(stack: ExitStack, folder: str) -> None:
    path = os.path.join(folder, "busy")
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, path])
    stack.callback(os.unlink, path)
    stack.callback(writer.wait)
    stack.callback(writer.kill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="a checkout to measure as well")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", action="append", choices=WAYS, help="only this; repeatable")
    parser.add_argument("--folder", default=str(ROOT / "build"), help="on the disk to measure")
    parser.add_argument("--busy-disk", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child[0], int(options.child[1]), options.child[2])
        return
    checkouts = {"this": ROOT}
    if options.beside is not None:
        checkouts["beside"] = options.beside.resolve()
    cells = [
        (way, c)
        for way in options.way or WAYS
        for c in (1, 8, 64)
        if c == 1 or way != "paced pair"
    ]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        if options.busy_disk:
            _busy_disk(stack, options.folder)
        for _ in range(options.rounds):
            for way, concurrency in [(NO_OUTBOX, 1), *cells]:
                for name, checkout in checkouts.items():
                    row = _measure(checkout, way, concurrency, options.folder)
                    found.setdefault((name, way, concurrency), []).append(row)
    print(f"us; medians of {options.rounds} runs, max of all; load {os.getloadavg()[0]:.1f}")
    print("| way | c | outbox | CPU | p50 | p99 | max |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for way, concurrency in [(NO_OUTBOX, 1), *cells]:
        for name in checkouts:
            rows = found[name, way, concurrency]
            cpu, p50, p99 = (
                statistics.median(row[key] for row in rows) for key in ("cpu", "p50", "p99")
            )
            worst = max(row["max"] for row in rows)
            print(
                f"| {way} | {concurrency} | {name} | {cpu:.1f} | {p50:.1f} | {p99:.1f} | {worst:.0f} |"
            )


if __name__ == "__main__":
    main()
