"""Limits per minute as a sliding window of whole seconds: never more than the limit in any 60 seconds."""

from __future__ import annotations

# (second, count) of each second in which something was counted, oldest first. At most 61 pairs.
Window = tuple[tuple[int, int], ...]

_MINUTE_S = 60


def count_window(window: Window, now_ms: int) -> int:
    """What counts against the limit now.

    A second counts until 60 s after its end, so an event counts for 60 to 61 s: the error is on the
    side of the limit.
    """
    oldest = now_ms // 1000 - _MINUTE_S
    return sum(count for second, count in window if second >= oldest)


def add_to_window(window: Window, count: int, now_ms: int) -> Window:
    """Count `count` more now. A clock that went back adds to the newest second."""
    second = now_ms // 1000
    oldest = second - _MINUTE_S
    kept = tuple(pair for pair in window if pair[0] >= oldest)
    if kept and kept[-1][0] >= second:
        newest, before = kept[-1]
        return (*kept[:-1], (newest, before + count))
    return (*kept, (second, count))


def correct_window(window: Window, change_count: int, time_ms: int) -> Window:
    """Change what was counted at `time_ms`, e.g. when fewer tokens were used than expected.

    Without effect once that second has left the window; a second never counts less than nothing.
    """
    second = time_ms // 1000
    return tuple(
        (s, max(0, count + change_count)) if s == second else (s, count) for s, count in window
    )


def wait_ms(window: Window, count: int, limit: int, now_ms: int) -> int:
    """Milliseconds until `count` more fit under `limit`: 0 if they do now, -1 if they never will."""
    if count > limit:
        return -1
    total = count_window(window, now_ms)
    if total + count <= limit:
        return 0
    oldest = now_ms // 1000 - _MINUTE_S
    for second, counted in window:
        if second < oldest:
            continue
        total -= counted
        if total + count <= limit:
            return (second + _MINUTE_S + 1) * 1000 - now_ms
    return 0
