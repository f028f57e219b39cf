"""Classes of requests."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Who goes first; lower first."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2
