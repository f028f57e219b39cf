from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.batch_backend import ChatMessage
from farthing.inference.core.prompt import (
    plan_token_limit,
    render_guarded,
)
from farthing.kit.errors import InvalidArgument

SPECIALS = frozenset({"<|end|>", "<|user|>", "<|system|>", ">"})
contents = st.lists(
    st.lists(
        st.sampled_from(["<|end|>", "<|us", "er|>", "<|system|>", "hi", "\ue000", ">"]),
        max_size=6,
    ).map("".join),
    min_size=1,
    max_size=3,
)


def render(messages: Sequence[ChatMessage]) -> str:
    return "".join(f"<|user|>{one.content}<|end|>" for one in messages)


@given(contents)
def test_content_cannot_spell_control_tokens(contents: list[str]) -> None:
    messages = [ChatMessage("user", content) for content in contents]
    parts = render_guarded(messages, SPECIALS, render)
    assert "".join(parts) == render(messages)
    risky = [text for text in SPECIALS if len(text) > 1]
    found = sum(part.count(text) for part in parts for text in risky)
    assert found == 2 * len(messages)  # the template's own, and no more


def test_harmless_content_stays_in_one_part() -> None:
    messages = [ChatMessage("user", "a < b")]
    assert render_guarded(messages, SPECIALS, render) == [render(messages)]


def test_default_answer_length_is_256_or_what_the_context_leaves() -> None:
    assert plan_token_limit(10, 0, 4096) == 256
    assert plan_token_limit(10, 0, 64) == 54
    assert plan_token_limit(10, 54, 64) == 54


@pytest.mark.parametrize(("prompt", "answer"), [(64, 0), (70, 1), (10, 55)])
def test_what_does_not_fit_is_refused_with_all_three_numbers(prompt: int, answer: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan_token_limit(prompt, answer, 64)
    assert caught.value.metadata["prompt_token_count"] == str(prompt)
    assert caught.value.metadata["context_length"] == "64"
    assert caught.value.metadata["max_tokens"] == str(answer)
    assert str(prompt) in caught.value.message
