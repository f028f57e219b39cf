"""Checks and measures the cloud engine on CUDA against the CPU: agreement, prefill, decode, interrupt.

`python tests/bench/gpu_check.py --model deploy/demo-models/cloud-large` prints findings, one JSON object per line.
It needs no service and no network. Without CUDA it measures the CPU alone and says so; --require-gpu fails instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("protos", "services", "cloud", ".")]

from farthing.inference.backend import Interrupted, Logits  # noqa: E402

from farthing.cloud.backend_ort import OrtBackend  # noqa: E402  after the path is set
from farthing.cloud.plan import DeviceWish, LoadPlan  # noqa: E402

PROMPT_COUNTS = (64, 256, 768)
DECODE_COUNT = 128
ROUNDS = 7


def main() -> int:
    """Prints the findings; 1 when answers differ, or no GPU came up although one is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--require-gpu", action="store_true")
    parser.add_argument(
        "--synthetic", action="store_true", help="also a random model of 0.2 billion parameters"
    )
    given = parser.parse_args()
    first = open_backend(given.model, "cuda" if given.require_gpu else "auto", given.threads)
    devices: list[DeviceWish] = ["cpu"]
    if first.opened.device == "cuda":
        devices.append("cuda")
    else:
        report(finding="no CUDA", why=first.opened.why_not_cuda)
    first.close()
    agreed = True
    for device in devices:
        backend = open_backend(given.model, device, given.threads)
        agreed &= check_agreement(backend, given.model / "reference_greedy.json")
        agreed &= check_reuse(backend)
        measure(backend, given.model.name)
        backend.close()
    if given.synthetic:
        with tempfile.TemporaryDirectory() as folder:
            measure_synthetic(Path(folder), devices, given.threads)
    return 0 if agreed else 1


def report(**finding: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(finding) + "\n")
    sys.stdout.flush()


def open_backend(folder: Path, device: DeviceWish, thread_count: int) -> OrtBackend:
    """The backend as the service opens it."""
    started = time.perf_counter()
    plan = LoadPlan(folder, folder.name, "", {}, device=device, thread_count=thread_count)
    backend = OrtBackend(plan)
    opened = backend.opened
    report(
        finding="opened",
        model=folder.name,
        device=opened.device,
        device_name=opened.device_name,
        precision=backend.model.quantization,
        parameter_count=backend.model.parameter_count,
        open_s=round(time.perf_counter() - started, 2),
    )
    return backend


def prefill(backend: OrtBackend, tokens: list[int]) -> Logits:
    """The prompt in the backend's own chunks, from an empty sequence."""
    backend.rewind(0)
    chunk = backend.prefill_chunk_token_count
    for start in range(0, len(tokens), chunk):
        logits = backend.prefill(tokens[start : start + chunk])
    return logits


def check_agreement(backend: OrtBackend, reference: Path) -> bool:
    """Greedy answers against those recorded from the training framework."""
    sequences = json.loads(reference.read_text(encoding="utf-8"))["sequences"]
    equal = 0
    for sequence in sequences:
        logits = prefill(backend, sequence["prompt_ids"])
        expected, answer = sequence["answer_ids"], list[int]()
        while len(answer) < len(expected):
            answer.append(int(logits.argmax()))
            if answer[-1] in backend.model.eos_ids:
                break
            logits = backend.decode(answer[-1])
        equal += answer == expected
    report(
        finding="greedy agreement",
        device=backend.opened.device,
        equal_count=equal,
        sequence_count=len(sequences),
    )
    return equal == len(sequences)


def check_reuse(backend: OrtBackend) -> bool:
    """A prompt continued from a kept prefix gives the very logits of one computed from the start."""
    chunk = backend.prefill_chunk_token_count
    if backend.model.context_length <= chunk + 8:
        chunk = backend.model.context_length // 2
    tokens = [5 + place % 200 for place in range(chunk + 8)]
    whole = prefill(backend, tokens)
    kept = backend.rewind(chunk)
    again = backend.prefill(tokens[kept:]) if kept else prefill(backend, tokens)
    same = bool((whole == again).all())
    report(finding="prefix reuse", device=backend.opened.device, kept=kept, identical=same)
    return same


def measure(backend: OrtBackend, name: str) -> None:
    """Median times of prompts and of single steps, and how fast a step can be interrupted."""
    room = backend.model.context_length - DECODE_COUNT
    for count in (n for n in PROMPT_COUNTS if n <= room):
        tokens = [5 + place % 200 for place in range(count)]
        prefill(backend, tokens)
        prompt_ms, decode_s = [], []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            prefill(backend, tokens)
            prompted = time.perf_counter()
            for place in range(DECODE_COUNT):
                backend.decode(5 + place)
            prompt_ms.append(1000 * (prompted - started))
            decode_s.append(time.perf_counter() - prompted)
        report(
            finding="speed",
            model=name,
            device=backend.opened.device,
            prompt_token_count=count,
            prefill_ms=round(statistics.median(prompt_ms), 2),
            decode_tokens_per_second=round(DECODE_COUNT / statistics.median(decode_s), 1),
        )
    report(
        finding="interrupt",
        model=name,
        device=backend.opened.device,
        worst_ms=round(max(interrupt_ms(backend) for _ in range(10)), 2),
    )


def interrupt_ms(backend: OrtBackend) -> float:
    """From the call of `interrupt` to the end of the step it hits."""
    backend.rewind(0)
    at: list[float] = []
    ready = threading.Event()

    def interrupt() -> None:
        ready.wait()
        time.sleep(0.002)
        at.append(time.perf_counter())
        backend.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    ready.set()
    tokens = [5] * min(backend.prefill_chunk_token_count, backend.model.context_length)
    try:
        while True:
            backend.prefill(tokens)
    except Interrupted:
        ended = time.perf_counter()
    thread.join()
    return 1000 * (ended - at[0])


def measure_synthetic(folder: Path, devices: list[DeviceWish], thread_count: int) -> None:
    """A model of a size that a GPU is bought for, with random weights: speed only."""
    import numpy as np
    from tests.support.tiny_onnx import Shape, save_model

    shape = Shape(layers=16, heads=16, head=64, inner=4096, context=2048)
    for device in devices:
        dtype = np.float16 if device == "cuda" else np.float32
        place = folder / f"synthetic-0.2b-{np.dtype(dtype).name}"
        save_model(place, dtype=dtype, shape=shape)
        backend = open_backend(place, device, thread_count)
        measure(backend, place.name)
        backend.close()


if __name__ == "__main__":
    raise SystemExit(main())
