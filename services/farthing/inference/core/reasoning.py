"""Counts the tokens in which a model reasons before it answers, between the marks that its kind writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from farthing.inference.batch_backend import TextCodec

# DeepSeek-R1, Qwen3, QwQ and GLM; Magistral.
_TEXTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


class ReasoningMarks(NamedTuple):
    """The tokens that begin and end reasoning."""

    start: int
    end: int


def find_marks(codec: TextCodec) -> ReasoningMarks | None:
    """A model's marks: texts that its vocabulary has as one token each. None for models that have none."""
    for texts in _TEXTS:
        start, end = (codec.tokenize(text, special=True) for text in texts)
        if len(start) == len(end) == 1:
            return ReasoningMarks(start[0], end[0])
    return None


class ReasoningCounter:
    """Fed an answer's tokens in their order. Marks are not counted."""

    def __init__(self, marks: ReasoningMarks | None, prompt: Sequence[int] = ()) -> None:
        """Some chat templates end with the start mark: the answer then begins within the reasoning."""
        self._marks = marks
        self._within = False
        self.token_count = 0
        if marks is not None:
            last = next((token for token in reversed(prompt) if token in marks), None)
            self._within = last == marks.start

    def feed(self, token: int) -> None:
        """The answer's next token."""
        if self._marks is None:
            return
        if token in self._marks:
            self._within = token == self._marks.start
        elif self._within:
            self.token_count += 1
