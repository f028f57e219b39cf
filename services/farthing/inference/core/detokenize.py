"""Turns the bytes of tokens into text, a whole character at a time."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Joins token bytes and gives out each character once it is complete.

    Bytes that can never become a character turn into U+FFFD. A character still unfinished at
    the end of the answer is left out: it is a cut, not a character.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The characters that this piece completes."""
        return self._decoder.decode(piece)
