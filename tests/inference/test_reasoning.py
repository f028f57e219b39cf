"""Tokens of reasoning are counted between the marks, wherever a step begins or ends."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from tests.support.toy_backend import ToyCodec, toy_answer
from tests.support.toy_loop import ToyLoop

from farthing.inference.core.reasoning import ReasoningCounter, ReasoningMarks, find_marks

MARKS = ReasoningMarks(ord("("), ord(")"))


class ThinkingCodec(ToyCodec):
    """The toy's model thinks from "o" to "t"."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        marks = {"<think>": "o", "</think>": "t"}
        return super().tokenize(marks.get(text, text) if special else text, special=special)


@given(st.text("a()", max_size=12), st.text("a()", max_size=12))
def test_what_stands_between_the_marks_is_counted(prompt: str, answer: str) -> None:
    counter = ReasoningCounter(MARKS, list(prompt.encode()))
    for token in answer.encode():
        counter.feed(token)
    began_within = prompt.rfind("(") > prompt.rfind(")")
    parts = re.findall(r"\(([^)]*)", "(" * began_within + answer)
    assert counter.token_count == sum(part.count("a") for part in parts)


def test_marks_are_texts_that_the_vocabulary_has_as_one_token() -> None:
    assert find_marks(ThinkingCodec()) == (ord("o"), ord("t"))
    assert find_marks(ToyCodec()) is None


def test_usage_says_how_much_of_an_answer_was_reasoning() -> None:
    lab = ToyLoop(codec=ThinkingCodec())
    prompts = [f"question {number}o" for number in range(12)]
    for prompt in prompts:
        lab.submit(prompt, 40)
    lab.run()
    counts = []
    for number, prompt in enumerate(prompts):
        answer = toy_answer(prompt, 40)
        counter = ReasoningCounter(ReasoningMarks(ord("o"), ord("t")), list(prompt.encode()))
        for token in answer.encode():
            counter.feed(token)
        usage = lab.heard[number].done.usage
        assert usage.output_token_count == len(answer)
        assert usage.reasoning_token_count == counter.token_count
        counts.append(counter.token_count)
    assert any(counts)
