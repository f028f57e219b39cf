"""Checks and measures the cloud engine on CUDA against the CPU: agreement, reuse, rows together, prompts, interrupts.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("protos", "services", "cloud", ".")]

from farthing.cloud.batch_backend import OrtBatchBackend  # noqa: E402  after the path is set
from farthing.cloud.plan import DeviceWish, LoadPlan  # noqa: E402
from farthing.inference.batch_backend import Interrupted, SlotWork  # noqa: E402
from farthing.inference.core.card import ModelCard  # noqa: E402

PROMPT_COUNTS = (64, 256, 768)
ROW_COUNTS = (1, 2, 4, 8, 16, 32, 64)
DECODE_COUNT = 64
ROUNDS = 5


def main() -> int:
    """Prints the findings; 1 when answers differ, or no GPU came up although one is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--require-gpu", action="store_true")
    parser.add_argument("--cuda-graphs", action="store_true")
    parser.add_argument(
        "--synthetic", action="store_true", help="also a random model of 0.2 billion parameters"
    )
    given = parser.parse_args()
    wishes = {"thread_count": given.threads, "cuda_graphs": given.cuda_graphs}
    first = open_backend(given.model, "cuda" if given.require_gpu else "auto", **wishes)
    devices: list[DeviceWish] = ["cpu"]
    if first.opened.device == "cuda":
        devices.append("cuda")
    else:
        report(finding="no CUDA", why=first.opened.why_not_cuda)
    first.close()
    agreed = True
    for device in devices:
        backend = open_backend(given.model, device, **wishes)
        agreed &= check_agreement(backend, given.model / "reference_greedy.json")
        agreed &= check_reuse(backend)
        measure(backend, given.model.name)
        backend.close()
    if given.synthetic:
        with tempfile.TemporaryDirectory() as folder:
            measure_synthetic(Path(folder), devices, wishes)
    return 0 if agreed else 1


def report(**finding: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(finding) + "\n")
    sys.stdout.flush()


def open_backend(folder: Path, device: DeviceWish, **wishes: Any) -> OrtBatchBackend:
    """The backend as the service opens it."""
    started = time.perf_counter()
    plan = LoadPlan(folder, folder.name, folder.name, ModelCard(), device=device, **wishes)
    backend = OrtBatchBackend(plan)
    report(
        finding="opened",
        model=folder.name,
        device=backend.opened.device,
        device_name=backend.opened.device_name,
        precision=backend.model.quantization,
        parameter_count=backend.model.parameter_count,
        slot_count=backend.layout.slot_count,
        form=backend.how,
        open_s=round(time.perf_counter() - started, 2),
    )
    return backend


def prefill(backend: OrtBatchBackend, slot: int, tokens: Sequence[int], start: int = 0) -> int:
    """Computes a prompt in the backend's own steps; the likeliest token after it."""
    size = backend.layout.step_token_capacity
    for place in range(start, len(tokens), size):
        output = backend.step([SlotWork(slot, place, tokens[place : place + size])])
    return int(output.best()[0])


def check_agreement(backend: OrtBatchBackend, reference: Path) -> bool:
    """Greedy answers, as many at a time as there are slots, against those recorded from the training framework."""
    sequences = json.loads(reference.read_text(encoding="utf-8"))["sequences"]
    width, equal = backend.layout.slot_count, 0
    for at in range(0, len(sequences), width):
        equal += _agreeing(backend, sequences[at : at + width])
    report(
        finding="greedy agreement",
        device=backend.opened.device,
        rows_together=width,
        equal_count=equal,
        sequence_count=len(sequences),
    )
    return equal == len(sequences)


def _agreeing(backend: OrtBatchBackend, sequences: Sequence[dict[str, Any]]) -> int:
    backend.reset()
    answers = [
        [prefill(backend, slot, one["prompt_ids"])] for slot, one in enumerate(sequences)
    ]
    while True:
        work = [
            SlotWork(slot, len(one["prompt_ids"]) + len(answers[slot]) - 1, answers[slot][-1:])
            for slot, one in enumerate(sequences)
            if len(answers[slot]) < len(one["answer_ids"])
            and answers[slot][-1] not in backend.model.eos_ids
        ]
        if not work:
            return sum(
                answer == one["answer_ids"]
                for answer, one in zip(answers, sequences, strict=True)
            )
        for one, token in zip(work, backend.step(work).best(), strict=True):
            answers[one.slot].append(int(token))


def check_reuse(backend: OrtBatchBackend) -> bool:
    """A prompt continued from a copied beginning goes on as one computed from the start."""
    length = min(backend.layout.step_token_capacity, backend.model.context_length) // 2
    tokens = [5 + place % 200 for place in range(length)]
    backend.reset()
    whole = prefill(backend, 0, tokens)
    target = min(1, backend.layout.slot_count - 1)
    backend.copy(0, target, length - 4)
    again = prefill(backend, target, tokens, start=length - 4)
    report(
        finding="prefix reuse",
        device=backend.opened.device,
        kept=length - 4,
        same=whole == again,
    )
    return whole == again


def measure(backend: OrtBatchBackend, name: str) -> None:
    """Median times of prompts, of steps with rows together, and how fast a step can be interrupted."""
    device = backend.opened.device
    room = backend.model.context_length - DECODE_COUNT
    for count in (n for n in PROMPT_COUNTS if n <= room):
        tokens = [5 + place % 200 for place in range(count)]
        times_ms = [_timed_ms(lambda: prefill(backend, 0, tokens)) for _ in range(ROUNDS + 1)]  # noqa: B023
        report(
            finding="prompt",
            model=name,
            device=device,
            prompt_token_count=count,
            first_token_ms=round(statistics.median(times_ms[1:]), 2),
        )
    for rows in (n for n in ROW_COUNTS if n <= backend.layout.slot_count):
        backend.reset()
        for slot in range(rows):
            prefill(backend, slot, [5 + slot] * 32)
        times_ms = [
            _timed_ms(lambda: _decode(backend, rows, place))  # noqa: B023
            for place in range(32, 32 + DECODE_COUNT)
        ]
        step_ms = statistics.median(times_ms[4:])
        report(
            finding="rows together",
            model=name,
            device=device,
            row_count=rows,
            token_interval_ms=round(step_ms, 3),
            tokens_per_second=round(1000 * rows / step_ms, 1),
        )
    worst_ms = max(interrupt_ms(backend) for _ in range(10))
    report(finding="interrupt", model=name, device=device, worst_ms=round(worst_ms, 2))


def _decode(backend: OrtBatchBackend, rows: int, place: int) -> None:
    backend.step([SlotWork(slot, place, [7]) for slot in range(rows)]).best()


def _timed_ms(deed: Any) -> float:
    started = time.perf_counter()
    deed()
    return 1000 * (time.perf_counter() - started)


def interrupt_ms(backend: OrtBatchBackend) -> float:
    """From the call of `interrupt` to the end of the step it hits."""
    backend.reset()
    at: list[float] = []
    computing = threading.Event()

    def interrupt() -> None:
        computing.wait()
        at.append(time.perf_counter())
        backend.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    tokens = [5] * min(backend.layout.step_token_capacity, backend.model.context_length)
    try:
        while True:
            computing.set()
            backend.step([SlotWork(0, 0, tokens)])
    except Interrupted:
        ended = time.perf_counter()
    thread.join()
    backend.reset()
    return 1000 * (ended - at[0])


def measure_synthetic(
    folder: Path, devices: Sequence[DeviceWish], wishes: dict[str, Any]
) -> None:
    """A model of a size that a GPU is bought for, with random weights: speed only."""
    import numpy as np
    from tests.support.tiny_onnx import Shape, save_model

    shape = Shape(layers=16, heads=16, head=64, inner=4096, context=2048)
    for device in devices:
        dtype = np.float16 if device == "cuda" else np.float32
        place = folder / f"synthetic-0.2b-{np.dtype(dtype).name}"
        save_model(place, dtype=dtype, shape=shape)
        backend = open_backend(place, device, **wishes)
        measure(backend, place.name)
        backend.close()


if __name__ == "__main__":
    raise SystemExit(main())
