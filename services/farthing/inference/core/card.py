"""Reads model.json, the card that lies beside a model: its name, how good it is, and what it is known to answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from farthing.inference.model import TaskQuality
from farthing.kit.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Canary:
    """A question whose greedy answer is known: a user's message, or a whole prompt for a model without chat."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a card says of its model; empty values where it says nothing."""

    name: str = ""
    qualities: tuple[TaskQuality, ...] = ()
    bytes_per_token: float = 0.0
    parameter_count: int = 0
    canaries: tuple[Canary, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelCard:
        """Back from `dataclasses.asdict`."""
        qualities = tuple(TaskQuality(**one) for one in values["qualities"])
        canaries = tuple(Canary(**one) for one in values["canaries"])
        return cls(**{**values, "qualities": qualities, "canaries": canaries})


def parse_card(document: Mapping[str, Any], artefact_name: str = "") -> ModelCard:
    """The values of a model.json. Raises FailedPrecondition naming what is wrong.

    When the card judges several artefacts, the one at `artefact_name` counts (its path inside
    the folder), else what the card says of the model as a whole.

    `task_quality` maps task → level → {"exact_match_ratio", "n"}; each level stands as
    "task/level", and levels are averaged by their number of judged answers into their task,
    tasks likewise into the entry of all tasks.
    """
    name = document.get("name", "")
    bytes_per_token = document.get("bytes_per_token", 0.0)
    parameter_count = document.get("params_count", 0)
    if not isinstance(name, str) or not isinstance(bytes_per_token, int | float):
        raise _bad("name must be a text and bytes_per_token a number")
    if not isinstance(parameter_count, int):
        raise _bad("params_count must be a whole number")
    tasks = _judged(document, artefact_name)
    if not isinstance(tasks, dict):
        raise _bad("task_quality must map tasks to levels")
    by_level = [_level_qualities(task, levels) for task, levels in sorted(tasks.items())]
    by_task = [
        _average(task, levels) for task, levels in zip(sorted(tasks), by_level, strict=True)
    ]
    overall = [_average("", by_task)] if by_task else []
    qualities = (*overall, *by_task, *chain.from_iterable(by_level))
    canaries = _canaries(document.get("canaries", []))
    return ModelCard(name, qualities, float(bytes_per_token), parameter_count, canaries)


def _canaries(listed: object) -> tuple[Canary, ...]:
    if not isinstance(listed, list):
        raise _bad("canaries must be a list")
    canaries = []
    for place, one in enumerate(listed):
        prompt, answer = (
            (one.get("prompt"), one.get("answer")) if isinstance(one, dict) else (None, None)
        )
        if not (isinstance(prompt, str) and prompt and isinstance(answer, str)):
            raise _bad(f"canaries[{place}] needs a prompt and an answer, both texts")
        canaries.append(Canary(prompt, answer))
    return tuple(canaries)


def _judged(document: Mapping[str, Any], artefact_name: str) -> object:
    artefacts = document.get("artefacts", {})
    if isinstance(artefacts, dict):
        for artefact in artefacts.values():
            if isinstance(artefact, dict) and artefact.get("path") == artefact_name:
                return artefact.get("task_quality", {})
    return document.get("task_quality", {})


def _level_qualities(task: str, levels: object) -> list[TaskQuality]:
    if not isinstance(levels, dict) or not levels:
        raise _bad(f"task_quality.{task} must map levels to results")
    return [_level_quality(task, key, value) for key, value in sorted(levels.items())]


def _level_quality(task: str, level: str, result: object) -> TaskQuality:
    place = f"task_quality.{task}.{level}"
    if not isinstance(result, dict):
        raise _bad(f"{place} must have exact_match_ratio and n")
    ratio = _number(result, "exact_match_ratio", place)
    count = _number(result, "n", place)
    if not 0 <= ratio <= 1 or count < 1 or count != int(count):
        raise _bad(f"{place} needs exact_match_ratio in 0..1 and a whole n of 1 or more")
    return TaskQuality(f"{task}/{level}", ratio, int(count))


def _number(result: Mapping[str, Any], key: str, place: str) -> float:
    value = result.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(f"{place}.{key} must be a number")
    return float(value)


def _average(task: str, parts: list[TaskQuality]) -> TaskQuality:
    count = sum(part.sample_count for part in parts)
    total = sum(part.quality_ratio * part.sample_count for part in parts)
    return TaskQuality(task, total / count, count)


def _bad(problem: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"model.json cannot be used: {problem}. Correct the file or remove it.",
        reason="MODEL_CARD_INVALID",
    )
