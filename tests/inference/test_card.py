from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from farthing.inference.core.card import Canary, ModelCard, parse_card
from farthing.inference.model import TaskQuality
from farthing.kit.errors import FailedPrecondition

CARD: dict[str, Any] = {
    "name": "edge-small",
    "task_quality": {
        "math": {
            "easy": {"exact_match_ratio": 0.9, "n": 10},
            "hard": {"exact_match_ratio": 0.3, "n": 30},
        },
        "extract": {"easy": {"exact_match_ratio": 1.0, "n": 60}},
    },
    "artefacts": {
        "q8": {
            "path": "small.gguf",
            "task_quality": {"math": {"easy": {"exact_match_ratio": 0.5, "n": 4}}},
        },
    },
}


def test_levels_are_averaged_by_answers_judged_and_all_tasks_come_first() -> None:
    overall, extract, math, *levels = parse_card(CARD).qualities
    assert (overall.task, overall.sample_count) == ("", 100)
    assert overall.quality_ratio == pytest.approx(0.78)
    assert extract == TaskQuality("extract", 1.0, 60)
    assert (math.task, math.sample_count) == ("math", 40)
    assert math.quality_ratio == pytest.approx(0.45)
    assert levels == [
        TaskQuality("extract/easy", 1.0, 60),
        TaskQuality("math/easy", 0.9, 10),
        TaskQuality("math/hard", 0.3, 30),
    ]


def test_the_artefact_that_is_served_has_its_own_figures() -> None:
    assert parse_card(CARD, "small.gguf").qualities == (
        TaskQuality("", 0.5, 4),
        TaskQuality("math", 0.5, 4),
        TaskQuality("math/easy", 0.5, 4),
    )


def test_an_empty_card_says_nothing() -> None:
    assert parse_card({}) == ModelCard()


@pytest.mark.parametrize(
    "quality",
    [
        [],
        {"math": {}},
        {"math": {"easy": 1}},
        {"math": {"easy": {"exact_match_ratio": 1.2, "n": 3}}},
        {"math": {"easy": {"exact_match_ratio": 0.2, "n": 0}}},
        {"math": {"easy": {"exact_match_ratio": True, "n": 3}}},
    ],
)
def test_a_wrong_card_is_refused(quality: object) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        parse_card({"task_quality": quality})
    assert "task_quality" in caught.value.message


def test_a_card_says_what_its_model_is_known_to_answer() -> None:
    card = parse_card({"canaries": [{"prompt": "2 + 3", "answer": "5"}]})
    assert card.canaries == (Canary("2 + 3", "5"),)
    assert ModelCard.from_dict(asdict(card)) == card


@pytest.mark.parametrize(
    "canaries", [{}, ["hello"], [{"prompt": "", "answer": "x"}], [{"prompt": "x"}]]
)
def test_a_canary_without_question_or_answer_is_refused(canaries: object) -> None:
    with pytest.raises(FailedPrecondition, match="canaries"):
        parse_card({"canaries": canaries})
