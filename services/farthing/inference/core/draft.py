"""Guesses of the next tokens, from what the sequence itself has said before (prompt lookup): no second model needed.

A summary, an extraction or code repeats its prompt. What followed the last place where the sequence ended alike is
guessed to follow again; a step that computes the guesses too tells which are right. The answer does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence

_LENGTHS = (3, 2)  # longer matches are right more often
_START_COUNT = 2
# Guesses right of those made lately, below and above which fewer and more are made.
_FEW, _MANY = 0.3, 0.7
_NEWEST_WEIGHT = 0.3
# After so many steps without guesses, one try shows whether the text has become repetitive.
_TRY_AGAIN = 16


class Drafter:
    """Guesses for one sequence, at most `most_count` at a time, as many as lately were right. 0 never guesses."""

    def __init__(self, most_count: int) -> None:
        self._most_count = most_count
        self._count = min(_START_COUNT, most_count)
        self._hit_ratio = 0.5
        self._idle_steps = 0
        self._places: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in _LENGTHS)
        self._indexed_count = 0

    def read(self, tokens: Sequence[int]) -> None:
        """Remember a prompt ahead of the first guess."""
        if self._most_count:
            self._index(tokens)

    def guess(self, tokens: Sequence[int]) -> list[int]:
        """What may come after `tokens`, which only ever grows from call to call."""
        if not self._most_count:
            return []
        self._index(tokens)
        if self._count == 0:
            self._idle_steps += 1
            if self._idle_steps < _TRY_AGAIN:
                return []
            self._idle_steps, self._count = 0, 1
        for length, places in zip(_LENGTHS, self._places, strict=True):
            if len(tokens) <= length:
                continue
            place = places.get(tuple(tokens[-length:]))
            if place is not None:
                return list(tokens[place : place + self._count])
        return []

    def learn(self, guessed_count: int, right_count: int) -> None:
        """So many of the guesses were right."""
        if not guessed_count:
            return
        self._hit_ratio += _NEWEST_WEIGHT * (right_count / guessed_count - self._hit_ratio)
        if self._hit_ratio > _MANY:
            self._count = min(self._count + 1, self._most_count)
        elif self._hit_ratio < _FEW:
            self._count -= 1

    def _index(self, tokens: Sequence[int]) -> None:
        """Remember where each run of tokens was followed by something, the latest place last."""
        for end in range(max(self._indexed_count, 1), len(tokens)):
            for length, places in zip(_LENGTHS, self._places, strict=True):
                if end >= length:
                    places[tuple(tokens[end - length : end])] = end
        self._indexed_count = len(tokens)
