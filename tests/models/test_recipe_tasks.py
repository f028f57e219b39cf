"""The drawn tasks are right, and training never sees what is held out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Load = Callable[[str], Any]
TRAINING_DRAW_COUNT = 4000
STEP = re.compile(r"(\d+(?: [+*-] \d+)+) = (\d+)")
ANY_NUMBER = st.integers(min_value=0, max_value=99_999)
property_test = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def evaluate(expression: str) -> int:
    """Work out a chain of +, - and * from left to right."""
    first, *rest = expression.split()
    total = int(first)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        value = int(operand)
        total = {"+": total + value, "-": total - value, "*": total * value}[sign]
    return total


def assert_steps_hold(text: str) -> None:
    for expression, result in STEP.findall(text):
        assert evaluate(expression) == int(result), text


def stated_sums(load: Load, answer: str) -> set[str]:
    """The instances that a worked answer gives away, read from its text alone."""
    instance_key = load("tasks_math").instance_key
    found = re.findall(r"(?<!\+ )\b(\d+) ([+*-]) (\d+)\b", answer)
    return {instance_key(sign, int(a), int(b)) for a, sign, b in found}


@pytest.fixture(scope="module")
def training(load: Load) -> list[Any]:
    rng = random.Random("a sample of training")
    return [load("tasks").draw_training(rng) for _ in range(TRAINING_DRAW_COUNT)]


@pytest.fixture(scope="module")
def items(load: Load, folder: Path) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = load("heldout").read(folder)
    return loaded


def test_training_neither_asks_nor_states_a_held_out_instance(
    load: Load, training: list[Any], items: list[dict[str, Any]]
) -> None:
    is_held_out = load("examples").is_held_out
    held_out = {item["instance"] for item in items}
    stated = {key for example in training for key in example.keys}
    assert not stated & held_out
    worked = {key for e in training if e.task == "math" for key in stated_sums(load, e.answer)}
    assert not worked & held_out
    assert not any(is_held_out(key) for key in stated)
    assert all(is_held_out(item["instance"]) for item in items)


def test_training_and_held_out_prompts_share_no_text(
    training: list[Any], items: list[dict[str, Any]]
) -> None:
    asked = {item["messages"][0]["content"] for item in items}
    assert not asked & {example.prompt for example in training}


def test_training_uses_no_held_out_phrasing(training: list[Any]) -> None:
    assert {example.phrasing for example in training} == {"seen"}


def test_held_out_items_ask_partly_in_new_phrasings(items: list[dict[str, Any]]) -> None:
    unseen = [item for item in items if item["phrasing"] == "unseen"]
    assert 0.1 < len(unseen) / len(items) < 0.4


def test_the_held_out_file_is_what_the_seed_draws(
    load: Load, items: list[dict[str, Any]]
) -> None:
    assert load("heldout").draw_items(load("configs").SEED) == items


def test_the_demo_prompts_are_what_the_seed_chooses(
    load: Load, folder: Path, items: list[dict[str, Any]]
) -> None:
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    assert load("heldout").choose_prompts(items, load("configs").SEED) == prompts


def test_every_worked_sum_is_right(training: list[Any]) -> None:
    sums = [example for example in training if example.task == "math"]
    assert sums
    for example in sums:
        assert_steps_hold(example.answer)
        assert re.search(r"Answer: -?\d+$", example.answer)


@property_test
@given(a=ANY_NUMBER, b=ANY_NUMBER)
def test_columns_of_a_sum_hold_and_make_its_digits(load: Load, a: int, b: int) -> None:
    steps = load("tasks_math").add_steps(a, b)
    assert_steps_hold(steps)
    columns = [int(step.split(" = ")[-1]) for step in steps.split(", ")]
    digits = [str(column % 10) for column in columns[:-1]] + [str(columns[-1])]
    assert int("".join(reversed(digits))) == a + b


@property_test
@given(a=ANY_NUMBER, b=ANY_NUMBER)
def test_columns_of_a_difference_hold_and_make_its_digits(load: Load, a: int, b: int) -> None:
    b, a = sorted((a, b))
    steps = load("tasks_math").subtract_steps(a, b)
    assert_steps_hold(steps)
    digits = [step.split(" = ")[-1] for step in steps.split(", ")]
    assert int("".join(reversed(digits))) == a - b


@property_test
@given(a=st.integers(10, 99), b=st.integers(2, 99))
def test_columns_of_a_product_hold_and_make_its_digits(load: Load, a: int, b: int) -> None:
    steps = load("tasks_math").multiply_steps(a, b)
    assert_steps_hold(steps)
    if b < 10:
        ones, _, rest = (int(step.split(" = ")[-1]) for step in steps.split(", "))
        assert rest * 10 + ones % 10 == a * b
    else:
        low, high = (int(term) for term in steps.split("; ")[-1].split(":")[0].split(" + "))
        assert (low, low + high) == (a * (b % 10), a * b)


def leaves(value: Any) -> Iterator[Any]:
    """Everything in a JSON document that is neither an object nor a list."""
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def test_every_extracted_field_stands_in_the_text(training: list[Any]) -> None:
    for example in training:
        if example.task == "extract":
            for leaf in leaves(json.loads(example.answer)):
                assert leaf is None or str(leaf) in example.prompt


def test_every_number_in_a_support_reply_about_an_order_comes_from_the_message(
    training: list[Any],
) -> None:
    for example in training:
        if example.task == "support":
            for number in re.findall(r"\b[ABKR]?\d{5,6}\b", example.answer):
                assert number in example.prompt


def test_every_digit_is_a_token_of_its_own(load: Load, folder: Path) -> None:
    encoder = load("tokenizer").load(folder / "tokenizer.json")
    joined = [token for token in encoder.get_vocab() if re.search(r"\d", token)]
    assert sorted(joined) == list("0123456789")


def test_special_tokens_have_the_first_ids(load: Load, folder: Path) -> None:
    encoder, chat = load("tokenizer").load(folder / "tokenizer.json"), load("chat")
    ids = [encoder.token_to_id(token) for token in chat.SPECIAL_TOKENS]
    assert ids == [chat.END_ID, chat.SYSTEM_ID, chat.USER_ID, chat.ASSISTANT_ID] == [0, 1, 2, 3]


def test_text_survives_the_tokenizer(load: Load, folder: Path, training: list[Any]) -> None:
    encoder = load("tokenizer").load(folder / "tokenizer.json")
    for text in [example.prompt for example in training[:200]] + ["naïve — ½ 日本 🙂\n\ttab"]:
        assert encoder.decode(encoder.encode(text).ids) == text


def test_the_chat_template_and_the_renderer_agree(load: Load) -> None:
    chat = load("chat")
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "2 + 2 = 4. Answer: 4"},
        {"role": "user", "content": "And 3 + 3?"},
    ]
    template = jinja2.Environment(autoescape=True).from_string(chat.CHAT_TEMPLATE)
    for open_turn in (True, False):
        rendered = template.render(messages=messages, add_generation_prompt=open_turn)
        assert rendered == chat.render(messages, open_turn=open_turn)
