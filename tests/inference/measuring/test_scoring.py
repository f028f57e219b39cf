"""What answers say of a model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.inference.core.card import parse_card
from farthing.inference.measuring.scoring import (
    Answer,
    compare_answers,
    exact_match,
    measure_speeds,
    summarise_quality,
)
from farthing.inference.measuring.tasks import Task

texts = st.dictionaries(st.sampled_from("abcdef"), st.text("xy", max_size=6))


def task(number: int, kind: str = "t", level: str = "easy") -> Task:
    return Task(str(number), kind, level, (), "?", "right")


def answer(number: int, text: str) -> Answer:
    return Answer(str(number), text, 10, 4, 1_000, 2_000)


def test_an_answer_is_right_letter_by_letter() -> None:
    tasks = [task(1), task(2), task(3, level="hard"), task(4, "u")]
    answers = {"1": "right", "2": "right ", "3": "right", "4": ""}
    quality = summarise_quality(tasks, {k: answer(int(k), v) for k, v in answers.items()})
    assert quality == {
        "t": {
            "easy": {"exact_match_ratio": 0.5, "n": 2},
            "hard": {"exact_match_ratio": 1.0, "n": 1},
        },
        "u": {"easy": {"exact_match_ratio": 0.0, "n": 1}},
    }
    assert exact_match(quality) == 0.5


def test_what_was_measured_is_what_a_service_reports() -> None:
    tasks = [task(1), task(2), task(3, "u")]
    answers = {"1": answer(1, "right"), "2": answer(2, "x"), "3": answer(3, "right")}
    card = parse_card({"task_quality": summarise_quality(tasks, answers)})
    found = {one.task: (one.quality_ratio, one.sample_count) for one in card.qualities}
    assert found["t/easy"] == (0.5, 2)
    assert found[""][0] == pytest.approx(2 / 3) and found[""][1] == 3


def test_speeds_are_tokens_over_device_time() -> None:
    speeds = measure_speeds([answer(1, "rightly"), answer(2, "so")])
    assert (speeds.prefill_tokens_per_s, speeds.decode_tokens_per_s) == (10_000.0, 2_000.0)
    assert speeds.bytes_per_token == 1.125
    assert measure_speeds([]).decode_tokens_per_s == 0.0


def test_likeness_counts_same_answers_and_same_beginnings() -> None:
    found = compare_answers({"a": "same", "b": "abXd", "c": "long"}, {"a": "same", "b": "abcd"})
    assert found is not None
    assert (found.same_count, found.answer_count, found.mean_prefix_ratio) == (1, 2, 0.75)
    assert compare_answers({"a": "x"}, {"b": "x"}) is None


@settings(max_examples=100, deadline=None)
@given(own=texts, other=texts)
def test_likeness_is_a_ratio_and_one_only_for_the_same(
    own: dict[str, str], other: dict[str, str]
) -> None:
    found = compare_answers(own, other)
    if found is None:
        assert not own.keys() & other.keys()
        return
    assert 0 <= found.mean_prefix_ratio <= 1
    assert found.same_count <= found.answer_count
    assert (found.mean_prefix_ratio == 1) == (found.same_count == found.answer_count)
    assert compare_answers(other, own) == found
