"""The cloud tier's engine by itself, without a service: agreement, reuse, batches, interrupts."""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farthing.cloud.batch_backend import OrtBatchBackend
from farthing.cloud.plan import LoadPlan
from farthing.inference.batch_backend import Interrupted, SlotWork
from farthing.inference.core.card import ModelCard


@dataclass(frozen=True, slots=True)
class Batch:
    """Seconds until every row has its first token, in all, and between two tokens of a row."""

    first_s: float
    whole_s: float
    interval_s: float


def open_backend(folder: Path, device: Any, **wishes: Any) -> OrtBatchBackend:
    """As the service opens it; `wishes` are LoadPlan's."""
    return OrtBatchBackend(
        LoadPlan(folder, folder.name, folder.name, ModelCard(), device=device, **wishes)
    )


def prefill(backend: OrtBatchBackend, slot: int, tokens: Sequence[int], start: int = 0) -> int:
    """Computes a prompt in the backend's own steps; the likeliest token after it."""
    size = backend.layout.step_token_capacity
    for place in range(start, len(tokens), size):
        output = backend.step([SlotWork(slot, place, tokens[place : place + size])])
    return int(output.best()[0])


def greedy(backend: OrtBatchBackend, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest continuation, whatever its tokens are."""
    backend.reset()
    answer = [prefill(backend, 0, prompt)]
    while len(answer) < count:
        work = SlotWork(0, len(prompt) + len(answer) - 1, answer[-1:])
        answer.append(int(backend.step([work]).best()[0]))
    return answer


def count_agreeing(backend: OrtBatchBackend, reference: Path) -> tuple[int, int]:
    """Of how many recorded greedy answers, as many at a time as there are slots, each token is the same."""
    sequences = json.loads(reference.read_text(encoding="utf-8"))["sequences"]
    width, equal = backend.layout.slot_count, 0
    for at in range(0, len(sequences), width):
        equal += _agreeing(backend, sequences[at : at + width])
    return equal, len(sequences)


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


def reuse_agrees(backend: OrtBatchBackend) -> bool:
    """Whether a prompt continued from a copied beginning goes on as one computed from the start."""
    length = min(backend.layout.step_token_capacity, backend.model.context_length) // 2
    tokens = [5 + place % 200 for place in range(length)]
    backend.reset()
    whole = prefill(backend, 0, tokens)
    target = min(1, backend.layout.slot_count - 1)
    backend.copy(0, target, length - 4)
    return whole == prefill(backend, target, tokens, start=length - 4)


def run_batch(backend: OrtBatchBackend, rows: int, prompt: int, tokens: int) -> Batch:
    """A batch that begins and ends together: prompts in steps as large as they may be, then a token for each row."""
    backend.reset()
    draw = random.Random(rows)
    prompts = [[draw.randrange(5, 200) for _ in range(prompt)] for _ in range(rows)]
    started_s = time.perf_counter()
    last = _compute_prompts(backend, prompts)
    first_s = time.perf_counter() - started_s
    intervals_s = []
    for place in range(prompt, prompt + tokens - 1):
        begun_s = time.perf_counter()
        work = [SlotWork(slot, place, [token]) for slot, token in enumerate(last)]
        last = [int(token) for token in backend.step(work).best()]
        intervals_s.append(time.perf_counter() - begun_s)
    whole_s = time.perf_counter() - started_s
    return Batch(first_s, whole_s, statistics.median(intervals_s))


def _compute_prompts(backend: OrtBatchBackend, prompts: Sequence[Sequence[int]]) -> list[int]:
    """The likeliest token after each."""
    best = [-1] * len(prompts)
    at = [0] * len(prompts)
    while work := _next_chunk(prompts, at, backend.layout.step_token_capacity):
        for one, token in zip(work, backend.step(work).best(), strict=True):
            at[one.slot] += len(one.tokens)
            best[one.slot] = int(token)
    return best


def _next_chunk(
    prompts: Sequence[Sequence[int]], at: Sequence[int], capacity: int
) -> list[SlotWork]:
    work = list[SlotWork]()
    for slot, (prompt, start) in enumerate(zip(prompts, at, strict=True)):
        chunk = prompt[start : start + capacity]
        if chunk:
            work.append(SlotWork(slot, start, chunk))
            capacity -= len(chunk)
    return work


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
