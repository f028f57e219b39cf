"""Adds a model in a thread on behalf of a stream of progress reports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable

from farthing.inference.store.contents import StoredModel
from farthing.inference.store.files import AddProgress, ProgressCallback
from farthing.kit.errors import Cancelled

_REPORT_EVERY_S = 0.25


class AddJob:
    """Runs `add` at once. It ends when `add` does, or soon after `cancel`; `on_end` is called then, on the loop."""

    def __init__(
        self,
        add: Callable[[ProgressCallback], StoredModel],
        *,
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._news = asyncio.Event()
        self._last: AddProgress | None = None
        self._on_end = on_end
        self._task = asyncio.ensure_future(asyncio.to_thread(add, self._hear))
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Makes the work stop at its next step. What has come of a download is kept."""
        self._cancelled.set()

    async def progress(self) -> AsyncGenerator[AddProgress]:
        """The latest report, a few times a second, until the work is over."""
        while not self._task.done():
            await self._news.wait()
            self._news.clear()
            if self._last is not None:
                last, self._last = self._last, None
                yield last
            await asyncio.wait([self._task], timeout=_REPORT_EVERY_S)

    async def result(self) -> StoredModel:
        """The model; raises what the work raised."""
        return await asyncio.shield(self._task)

    def _hear(self, progress: AddProgress) -> None:
        if self._cancelled.is_set():
            raise _given_up()
        try:
            self._loop.call_soon_threadsafe(self._note, progress)
        except RuntimeError:  # the loop is closed: the process ends
            raise _given_up() from None

    def _note(self, progress: AddProgress) -> None:
        self._last = progress
        self._news.set()

    def _ended(self, task: asyncio.Future[StoredModel]) -> None:
        if not task.cancelled():
            task.exception()  # taken note of, should nobody ask for the result any more
        self._news.set()
        self._on_end()


def _given_up() -> Cancelled:
    return Cancelled(
        "adding the model was given up; ask again, it goes on", reason="ADD_CANCELLED"
    )
