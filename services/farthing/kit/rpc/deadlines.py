"""Deadlines of many tasks with one timer.

asyncio.timeout sets a timer for every block and takes it back at its end, which nearly always comes first: some percent
of what a call costs a router. Here one timer comes for the next deadline of all, mostly to find that it is long met.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from types import TracebackType


class Deadlines:
    """Use from one event loop."""

    def __init__(self) -> None:
        self._open: set[Within] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._comes_at = inf

    def within(self, seconds: float | None) -> Within:
        """A block, entered by `with`, that its task leaves with TimeoutError after so long; None gives it all time.

        As with asyncio.timeout the task is cancelled where it waits. Nothing is begun when no time is left.
        """
        return Within(self, inf if seconds is None else time.monotonic() + seconds)

    def begin(self, block: Within) -> None:
        """Watch a block; blocks call it."""
        self._open.add(block)
        if block.at < self._comes_at:
            self._set_timer(block.at)

    def end(self, block: Within) -> None:
        """Watch a block no longer; blocks call it."""
        self._open.discard(block)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._comes_at = at
        self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for block in [block for block in self._open if block.at <= now]:
            self._open.discard(block)
            block.expire()
        self._timer, self._comes_at = None, inf
        if self._open:
            self._set_timer(min(block.at for block in self._open))


class Within:
    """See Deadlines.within."""

    __slots__ = ("_cancelling", "_deadlines", "_is_over", "_task", "at")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self._deadlines, self.at, self._is_over = deadlines, at, False

    def __enter__(self) -> None:
        if self.at == inf:
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is kept by cancelling the task that it is for")
        if self.at <= time.monotonic():
            raise TimeoutError
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.begin(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.at == inf:
            return
        if not self._is_over:
            self._deadlines.end(self)
        elif self._task.uncancel() <= self._cancelling and isinstance(
            error, asyncio.CancelledError
        ):
            raise TimeoutError from error

    def expire(self) -> None:
        """Cancel the task; deadlines call it."""
        self._is_over = True
        self._task.cancel()
