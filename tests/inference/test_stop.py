from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.inference.core.stop import StopMatcher

few_letters = st.text("ab.", max_size=40)
stops = st.lists(st.text("ab.", min_size=1, max_size=4), max_size=8)


def whole_answer(text: str, stops: list[str]) -> tuple[str, bool]:
    """What a reader who sees the text letter by letter would keep."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(few_letters, stops, st.lists(st.integers(1, 5), min_size=1))
def test_the_answer_does_not_depend_on_how_it_was_cut(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    matcher = StopMatcher(stops)
    shown, place, stopped, turn = "", 0, False, 0
    while place < len(text) and not stopped:
        size = sizes[turn % len(sizes)]
        released = matcher.feed(text[place : place + size])
        shown, stopped = shown + released.text, released.stopped
        place, turn = place + size, turn + 1
    if not stopped:
        shown += matcher.finish()
    assert (shown, stopped) == whole_answer(text, stops)


@given(few_letters, stops)
def test_what_was_shown_never_has_to_be_taken_back(text: str, stops: list[str]) -> None:
    matcher, shown = StopMatcher(stops), ""
    kept, _ = whole_answer(text, stops)
    for letter in text:
        released = matcher.feed(letter)
        shown += released.text
        assert kept.startswith(shown)
        if released.stopped:
            break


def test_nothing_is_held_back_without_stop_texts() -> None:
    assert StopMatcher(()).feed("anything").text == "anything"
