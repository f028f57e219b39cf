from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.detokenize import Detokenizer


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(border % (len(data) + 1) for border in borders)})
    return [data[a:b] for a, b in pairwise(places)]


@given(st.text(), st.lists(st.integers(0, 10_000)))
def test_text_is_the_same_however_its_bytes_were_cut(text: str, borders: list[int]) -> None:
    detokenizer = Detokenizer()
    parts = [detokenizer.feed(piece) for piece in cut(text.encode(), borders)]
    assert "".join(parts) == text


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_any_bytes_read_as_replacement_decoding_reads_them(
    data: bytes, borders: list[int]
) -> None:
    detokenizer = Detokenizer()
    text = "".join(detokenizer.feed(piece) for piece in cut(data, borders))
    whole = data.decode("utf-8", "replace")
    # Only a character that the end cut in two may be missing.
    missing = whole.removeprefix(text)
    assert whole.startswith(text) and len(missing) <= 3 and set(missing) <= {"\ufffd"}


def test_a_character_appears_once_its_last_byte_came() -> None:
    detokenizer = Detokenizer()
    euro = "€".encode()
    assert [detokenizer.feed(bytes([byte])) for byte in euro] == ["", "", "€"]
