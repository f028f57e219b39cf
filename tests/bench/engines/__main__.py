"""What the two engines do through gRPC, beside their libraries' own servers: `python -m tests.bench.engines`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from tests.bench.engines import cloud, edge
from tests.bench.report import Result, write_report

PARTS = ("throughput", "overhead", "reuse", "latency", "neighbours", "cloud")


async def measure(parts: list[str], folder: Path, work: Path, rounds: int) -> list[Result]:
    """All figures of the parts."""
    results: list[Result] = []
    model = edge.make_model(folder)
    for part in parts:
        print(f"{part} …", flush=True)
        if part == "throughput":
            results += await edge.measure_throughput(model, work, rounds)
        elif part == "overhead":
            results += await edge.measure_overhead(model, work, rounds)
        elif part == "reuse":
            results += await edge.measure_reuse(model, work, rounds)
        elif part == "latency":
            results += await edge.measure_latency(model, work, 20 * rounds)
        elif part == "neighbours":
            results += await edge.measure_neighbours(model, work, rounds)
        else:
            results += await cloud.measure_cloud(folder, work, rounds)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench/engines.json"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; take {', '.join(PARTS)}")
    results = [Result("load average before", os.getloadavg()[0], "")]
    with TemporaryDirectory() as directory:
        results += uvloop.run(
            measure(options.parts, options.out.parent, Path(directory), options.rounds)
        )
    results.append(Result("load average after", os.getloadavg()[0], ""))
    write_report(results, options.out)


if __name__ == "__main__":
    main()
