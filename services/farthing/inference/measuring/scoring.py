"""What answers say of a model: how often it is right, how fast it is, how like another model's its answers are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.inference.measuring.tasks import Task


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to a task and what that took. A refused task has the empty text and no tokens."""

    task_id: str
    text: str
    computed_token_count: int = 0
    output_token_count: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second of device time, 0 when nothing was computed; mean bytes of text per answered token."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    bytes_per_token: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How like a reference's greedy answers are: how many are the same, and how much of the rest's beginning is.

    `mean_prefix_ratio` is the mean over all answers of the share of the reference's characters before the first
    difference, 1 for the same answer.
    """

    same_count: int
    answer_count: int
    mean_prefix_ratio: float


def summarise_quality(
    tasks: Sequence[Task], answers: Mapping[str, Answer]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Task → level → {"exact_match_ratio", "n"}, as model cards have it. An answer is right letter by letter."""
    cells: dict[str, dict[str, list[bool]]] = {}
    for task in tasks:
        right = answers[task.id].text == task.answer
        cells.setdefault(task.task, {}).setdefault(task.level, []).append(right)
    return {
        task: {level: _cell(outcomes) for level, outcomes in levels.items()}
        for task, levels in cells.items()
    }


def exact_match(quality: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> float:
    """The share of right answers over everything that a quality speaks of."""
    cells = [cell for levels in quality.values() for cell in levels.values()]
    count = sum(cell["n"] for cell in cells)
    right = sum(cell["exact_match_ratio"] * cell["n"] for cell in cells)
    return round(right / count, 4) if count else 0.0


def measure_speeds(answers: Iterable[Answer]) -> Speeds:
    """Tokens over device time, all answers together: long ones count for more."""
    computed = generated = prefill_us = decode_us = text_bytes = 0
    for answer in answers:
        computed += answer.computed_token_count
        generated += answer.output_token_count
        prefill_us += answer.prefill_us
        decode_us += answer.decode_us
        text_bytes += len(answer.text.encode())
    return Speeds(
        prefill_tokens_per_s=round(computed * 1e6 / prefill_us, 1) if prefill_us else 0.0,
        decode_tokens_per_s=round(generated * 1e6 / decode_us, 1) if decode_us else 0.0,
        bytes_per_token=round(text_bytes / generated, 3) if generated else 0.0,
    )


def compare_answers(own: Mapping[str, str], reference: Mapping[str, str]) -> Agreement | None:
    """How like the reference's the answers are, on the tasks that both have; None when there are none."""
    shared = sorted(own.keys() & reference.keys())
    if not shared:
        return None
    ratios = [_prefix_ratio(own[key], reference[key]) for key in shared]
    return Agreement(
        same_count=sum(own[key] == reference[key] for key in shared),
        answer_count=len(shared),
        mean_prefix_ratio=round(sum(ratios) / len(ratios), 4),
    )


def _prefix_ratio(own: str, reference: str) -> float:
    if own == reference:
        return 1.0
    length = 0
    for mine, theirs in zip(own, reference, strict=False):
        if mine != theirs:
            break
        length += 1
    return length / max(len(own), len(reference))


def _cell(outcomes: Sequence[bool]) -> dict[str, Any]:
    return {
        "exact_match_ratio": round(sum(outcomes) / len(outcomes), 4),
        "n": len(outcomes),
    }
