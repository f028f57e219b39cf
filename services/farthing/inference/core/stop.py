"""Finds stop texts in an answer that arrives in pieces of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Released(NamedTuple):
    """Text that may be shown, and whether a stop text ended the answer there."""

    text: str
    stopped: bool


class StopMatcher:
    """Holds back text that may be the beginning of a stop text.

    The stop text that ends first wins, and of those the longest, so that the result does not
    depend on how the answer was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def feed(self, text: str) -> Released:
        """Adds text; call no more after `stopped`."""
        if not self._stops:
            return Released(text, False)
        pending = self._held + text
        matches = [
            (start + len(stop), start)
            for stop in self._stops
            if (start := pending.find(stop)) >= 0
        ]
        if matches:
            _, start = min(matches)
            self._held = ""
            return Released(pending[:start], True)
        held_length = max(_overlap(pending, stop) for stop in self._stops)
        cut = len(pending) - held_length
        self._held = pending[cut:]
        return Released(pending[:cut], False)

    def finish(self) -> str:
        """The text still held back, at an end that no stop text caused."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    for length in range(longest, 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
