"""How an answer is judged, and how judgements become the figures of a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from recipe.tasks import cells

ANSWER_MARK = "Answer:"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One item's outcome; `final` is the last line's result alone and only `math` has it."""

    task: str
    level: str
    phrasing: str
    exact: bool
    final: bool | None


def judge(item: dict[str, Any], answer: str) -> Judgement:
    """Compare `answer` with the item's own, letter by letter and, for sums, by result."""
    final = None
    if item["task"] == "math":
        final = _result(answer) == _result(item["answer"])
    exact = answer == item["answer"]
    return Judgement(item["task"], item["level"], item["phrasing"], exact, final)


def _result(answer: str) -> str | None:
    head, mark, tail = answer.rpartition(ANSWER_MARK)
    return tail.strip() if mark and head else None


def _ratio(outcomes: Iterable[bool | None]) -> float:
    known = [bool(outcome) for outcome in outcomes if outcome is not None]
    return round(sum(known) / len(known), 4)


def summarise(judgements: list[Judgement]) -> dict[str, dict[str, dict[str, Any]]]:
    """Ratios (0..1) by task and level, and by whether the phrasing was trained on."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for task, level in cells():
        cell = [j for j in judgements if (j.task, j.level) == (task, level)]
        if not cell:
            continue
        entry: dict[str, Any] = {
            "exact_match_ratio": _ratio(j.exact for j in cell),
            "n": len(cell),
        }
        if any(j.final is not None for j in cell):
            entry["answer_match_ratio"] = _ratio(j.final for j in cell)
        for phrasing in ("seen", "unseen"):
            part = [j for j in cell if j.phrasing == phrasing]
            if part:
                entry[f"{phrasing}_phrasing"] = {
                    "exact_match_ratio": _ratio(j.exact for j in part),
                    "n": len(part),
                }
        table.setdefault(task, {})[level] = entry
    return table
