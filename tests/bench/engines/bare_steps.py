"""Steps of llama.cpp with nothing around: for each line of JSON the median time of a step with a token in each row."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import llama_cpp as llama

from farthing.edge.batch_backend import LlamaBatchBackend
from farthing.edge.plan import LoadPlan
from farthing.inference.batch_backend import SlotWork
from farthing.inference.core.card import ModelCard


def main(path: str, context_length: int, thread_count: int) -> None:
    """Lines in: {"rows", "start", "count"}. Lines out: {"step_ms"}, that of `llama_decode` alone."""
    plan = LoadPlan(Path(path), "bench", "", ModelCard(), context_length, thread_count, 16)
    backend = LlamaBatchBackend(plan)
    library_decode = llama.llama_decode
    times_ms: list[float] = []

    def timed(context: object, batch: object) -> int:
        started_s = time.perf_counter()
        code: int = library_decode(context, batch)
        llama.llama_synchronize(context)
        times_ms.append(1000 * (time.perf_counter() - started_s))
        return code

    llama.llama_decode = timed
    for line in sys.stdin:
        asked = json.loads(line)
        backend.reset()
        for slot in range(asked["rows"]):
            backend.step([SlotWork(slot, 0, [5] * asked["start"])]).best()
        times_ms.clear()
        for place in range(asked["count"]):
            work = [
                SlotWork(slot, asked["start"] + place, [7]) for slot in range(asked["rows"])
            ]
            backend.step(work).best()
        sys.stdout.write(json.dumps({"step_ms": statistics.median(times_ms)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
