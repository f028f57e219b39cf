"""What the two engines do through gRPC, beside their libraries' own servers: `python -m tests.bench.engines`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import uvloop
from tests.bench.engines import cloud, edge
from tests.bench.processes import NotReady
from tests.bench.random_gguf import WEIGHTS
from tests.bench.report import Result, skip, write_report

PARTS = ("throughput", "overhead", "reuse", "latency", "leaving", "neighbours", "cloud")


async def measure_part(
    part: str, model: Path, folder: Path, work: Path, rounds: int
) -> list[Result]:
    """The figures of one part."""
    if part == "cloud":
        return await cloud.measure_cloud(folder, work, rounds)
    ways = {
        "throughput": edge.measure_throughput,
        "overhead": edge.measure_overhead,
        "reuse": edge.measure_reuse,
        "latency": edge.measure_latency,
        "leaving": edge.measure_leaving,
        "neighbours": edge.measure_neighbours,
    }
    return await ways[part](model, work, rounds)


async def measure(
    parts: list[str], folder: Path, work: Path, rounds: int, weights: str
) -> list[Result]:
    """All figures of the parts."""
    results: list[Result] = []
    model = edge.make_model(folder, weights)
    for part in parts:
        print(f"{part} …", flush=True)
        try:
            results += await measure_part(part, model, folder, work, rounds)
        except (grpc.aio.AioRpcError, NotReady, OSError) as error:  # keep what the others found
            why = f"{type(error).__name__}: {error}"
            print(f"\n*** {part} was not measured: {why} ***\n", file=sys.stderr)
            results.append(skip(part, "", why.splitlines()[0]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--weights", choices=list(WEIGHTS), default="q4_0", help="of the edge's model"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench/engines.json"))
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; take {', '.join(PARTS)}")
    results = [Result("load average before", os.getloadavg()[0], "")]
    with TemporaryDirectory() as directory:
        results += uvloop.run(
            measure(
                options.parts,
                options.out.parent,
                Path(directory),
                options.rounds,
                options.weights,
            )
        )
    results.append(Result("load average after", os.getloadavg()[0], ""))
    write_report(results, options.out)


if __name__ == "__main__":
    main()
