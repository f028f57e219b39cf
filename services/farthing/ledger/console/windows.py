"""The console's time filter: a name in the URL, a window of Unix nanoseconds behind it."""

from __future__ import annotations

from dataclasses import dataclass

HOUR_NS = 3_600_000_000_000
_LENGTHS_NS = {"1h": HOUR_NS, "24h": 24 * HOUR_NS, "7d": 7 * 24 * HOUR_NS, "all": 0}
_LABELS = {"1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", "all": "All time"}
DEFAULT_NAME = "24h"


@dataclass(frozen=True, slots=True)
class Window:
    """[start_ns, end_ns) under the name that the URL holds."""

    name: str
    start_ns: int
    end_ns: int

    @property
    def label(self) -> str:
        """For people."""
        return _LABELS[self.name]


def read_window(name: str | None, now_ns: int) -> Window:
    """The window of a name, ending now; an unknown name is the default one."""
    known = name if name in _LENGTHS_NS else DEFAULT_NAME
    length_ns = _LENGTHS_NS[known]
    return Window(known, now_ns - length_ns if length_ns else 0, now_ns)


def window_choices() -> tuple[tuple[str, str], ...]:
    """Names and labels, shortest first."""
    return tuple(_LABELS.items())
