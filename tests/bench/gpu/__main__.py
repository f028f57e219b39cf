"""The cloud tier's engine on CUDA: agreement with the CPU and with PyTorch, and its speed, memory and energy beside
PyTorch's transformers and onnxruntime-genai on the same weights: `python -m tests.bench.gpu`, or `make bench-gpu`.

It needs no service, and no network once the peers are there; --torch-python and --genai-python name environments that
have them. Without CUDA it measures the CPU on a small model and says so; --require-gpu fails instead.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench.engines import genai
from tests.bench.gpu.llama_model import SIZES, make_model
from tests.bench.gpu.ours import (
    Batch,
    count_agreeing,
    greedy,
    interrupt_ms,
    open_backend,
    reuse_agrees,
    run_batch,
)
from tests.bench.peer_process import Asking, NoPeer, asked, make_environment
from tests.bench.processes import ROOT
from tests.bench.report import Result, judge, skip, write_report

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.inference.energy import open_nvml
from farthing.kit.errors import FarthingError

DEMO = ROOT / "deploy" / "demo-models" / "cloud-large"
ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64)
PROMPT, TOKENS = 128, 64
TORCH = ("torch>=2.9", "transformers>=5", "numpy>=2")
_GREEDY_COUNT, _GREEDY_TOKENS = 8, 32
Run = Callable[[int], Batch]
Answers = list[tuple[list[int], list[int]]]


def main() -> int:
    """Writes the report; 1 when answers differ, or no GPU came up although one is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), help="1b on CUDA unless given")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROW_COUNTS))
    parser.add_argument("--require-gpu", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--torch-python", default="", help="one that has torch, transformers")
    parser.add_argument("--genai-python", default="", help="one that has onnxruntime-genai")
    parser.add_argument("--out", type=Path, default=Path("build/bench/gpu.json"))
    given = parser.parse_args()
    wishes = {"thread_count": given.threads, "cuda_graphs": given.cuda_graphs}
    try:
        device, results = check_demo(given.require_gpu, wishes)
    except FarthingError as error:
        print(f"*** {error.message} ***", file=sys.stderr)
        return 1
    results += compare(given, wishes, device)
    write_report(results, given.out)
    return 1 if any(result.holds is False for result in results) else 0


def check_demo(require_gpu: bool, wishes: dict[str, Any]) -> tuple[str, list[Result]]:
    """The demo model on every device there is, against answers recorded from its training framework.

    Returns the best device too.
    """
    results: list[Result] = []
    found = "cpu"
    for device in ("cpu", "cuda" if require_gpu else "auto"):
        backend = open_backend(DEMO, device, **wishes)
        found = backend.opened.device
        if device == "auto" and found == "cpu":
            why = backend.opened.why_not_cuda
            print(f"\n*** NO CUDA: {why} ***\n", file=sys.stderr)
            results.append(skip("cuda", "", why.splitlines()[0]))
            backend.close()
            continue
        equal, count = count_agreeing(backend, DEMO / "reference_greedy.json")
        worst_ms = max(interrupt_ms(backend) for _ in range(10))
        results += [
            judge(f"{found}: greedy answers as the training framework's", 100 * equal / count, "%", ">= 100"),
            judge(f"{found}: continued from a copy as computed whole", float(reuse_agrees(backend)), "", ">= 1"),
            Result(f"{found}: from interrupt to the end of the step, worst of ten", worst_ms, "ms"),
        ]  # fmt: skip
        backend.close()
    return found, results


def compare(given: argparse.Namespace, wishes: dict[str, Any], device: str) -> list[Result]:
    """The random model on one device, here and at the peers."""
    size = SIZES[given.size or ("1b" if device == "cuda" else "small")]
    dtype = np.float16 if device == "cuda" else np.float32
    folder = make_model(given.out.parent, size, dtype)
    what = f"{device}, {folder.name}"
    results = [Result(f"{what}: parameters", size.parameter_count / 1e6, "M")]
    own, ours, more = measure_ours(what, folder, size.vocab, given, wishes, device)
    results += more
    if given.no_peers:
        return results
    peers = {
        "transformers": partial(torch_peer, folder, device, given),
        "genai": partial(genai_peer, folder, device, given),
    }
    for name, open_peer in peers.items():
        try:
            with open_peer() as ask:
                if name == "transformers":
                    results += judge_greedy(f"{what}, as {name}", own, ask, device)
                run = partial(run_peer, ask)
                theirs, more = measure(f"{what}, {name}", run, given, device)
        except NoPeer as error:
            print(f"\n*** NOT COMPARED WITH {name}: {error} ***\n", file=sys.stderr)
            results.append(
                skip(f"{what}: farthing over {name}", "", str(error).splitlines()[0])
            )
            continue
        results += more
        results += [
            Result(f"{what}: farthing over {name}, {rows} rows", theirs[rows] / ours[rows], "x")
            for rows in theirs
            if rows in ours
        ]
    return results


def measure_ours(
    what: str,
    folder: Path,
    vocabulary: int,
    given: argparse.Namespace,
    wishes: dict[str, Any],
    device: str,
) -> tuple[Answers, dict[int, float], list[Result]]:
    """Greedy answers, seconds by rows, and what to report; the engine's memory is free again then."""
    backend = open_backend(
        folder,
        device,
        slot_count=max(given.rows),
        context_length=2 * (PROMPT + TOKENS),
        **wishes,
    )
    try:
        answers = greedy_answers(backend, vocabulary)
        run = partial(run_batch, backend, prompt=PROMPT, tokens=TOKENS)
        return answers, *measure(f"{what}, farthing", run, given, device)
    finally:
        backend.close()


def measure(
    name: str, run: Run, given: argparse.Namespace, device: str
) -> tuple[dict[int, float], list[Result]]:
    """Seconds of a batch by its rows, the median over rounds after one to warm up; and what to report."""
    meter = open_nvml() if device == "cuda" else None
    seconds: dict[int, float] = {}
    results: list[Result] = []
    for rows in given.rows:
        run(rows)
        if meter is not None:
            meter.take_uj()
        batches = [run(rows) for _ in range(given.rounds)]
        drawn_uj = 0 if meter is None else meter.take_uj()
        seconds[rows] = statistics.median(batch.whole_s for batch in batches)
        first_s = statistics.median(batch.first_s for batch in batches)
        interval_s = statistics.median(batch.interval_s for batch in batches)
        at = f"{name}, {rows} rows"
        results += [
            Result(f"{at}: tokens per second", rows * TOKENS / seconds[rows], "1/s"),
            Result(f"{at}: first tokens after", 1_000 * first_s, "ms"),
            Result(f"{at}: time per token", 1_000 * interval_s, "ms"),
        ]
        if drawn_uj:
            joules = drawn_uj / 1e6 / (rows * TOKENS * given.rounds)
            results.append(Result(f"{at}: energy per token, prompts included", joules, "J"))
    if device == "cuda":
        results.append(Result(f"{name}: GPU memory in use", gpu_memory_mib(), "MiB"))
    return seconds, results


def greedy_answers(backend: OrtBatchBackend, vocabulary: int) -> Answers:
    """Prompts and how the engine goes on."""
    draw = random.Random(1)
    prompts = [
        [draw.randrange(5, vocabulary) for _ in range(draw.randint(4, PROMPT))]
        for _ in range(_GREEDY_COUNT)
    ]
    return [(prompt, greedy(backend, prompt, _GREEDY_TOKENS)) for prompt in prompts]


def judge_greedy(name: str, own: Answers, ask: Asking, device: str) -> list[Result]:
    """How many first tokens and whole answers agree. In half precision other kernels round otherwise: no target."""
    answers = [
        ask({"kind": "greedy", "prompt": prompt, "tokens": _GREEDY_TOKENS})["tokens"]
        for prompt, _ in own
    ]
    whole = 100 * statistics.fmean(a == b for (_, a), b in zip(own, answers, strict=True))
    first = 100 * statistics.fmean(a[0] == b[0] for (_, a), b in zip(own, answers, strict=True))
    told = f"{name}: greedy answers of {_GREEDY_TOKENS} tokens that are the same"
    return [
        Result(told, whole, "%") if device == "cuda" else judge(told, whole, "%", ">= 100"),
        judge(f"{name}: first tokens that are the same", first, "%", ">= 100"),
    ]


def run_peer(ask: Asking, rows: int) -> Batch:
    """A batch of the peer's."""
    answer = ask({"kind": "generator", "rows": rows, "prompt": PROMPT, "tokens": TOKENS})
    first_s, whole_s = float(answer["first_s"]), float(answer["whole_s"])
    return Batch(first_s, whole_s, (whole_s - first_s) / (TOKENS - 1))


@contextmanager
def torch_peer(folder: Path, device: str, given: argparse.Namespace) -> Iterator[Asking]:
    """PyTorch's transformers."""
    python = given.torch_python or str(make_environment("torch", TORCH))
    worker = Path(__file__).with_name("torch_worker.py")
    with asked([python, str(worker), str(folder), device, str(given.threads)]) as ask:
        yield ask


@contextmanager
def genai_peer(folder: Path, device: str, given: argparse.Namespace) -> Iterator[Asking]:
    """onnxruntime-genai's Generator."""
    with ExitStack() as stack:
        yield stack.enter_context(
            genai.running_worker(folder, given.threads, device, given.genai_python)
        )


def gpu_memory_mib() -> float:
    """Of the first GPU, by nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    told = subprocess.run(query, check=True, capture_output=True, text=True)
    return float(told.stdout.split()[0])


if __name__ == "__main__":
    raise SystemExit(main())
