"""Writes to one SQLite file from a thread of its own: what comes while a transaction commits shares the next one."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.kit.durability import Synchronous
from farthing.kit.sqlite_group import (
    Group,
    Result,
    Session,
    Task,
    closed_error,
    explain,
    resolve,
)

_log = logging.getLogger(__name__)


class SqliteWriter:
    """Writer in a thread of its own: jobs queue up while a transaction commits, then share the next one.

    For jobs that take long, and for synchronous="full", where each transaction waits for the disk and survives the loss
    of power too. The file is locked for this connection alone unless `exclusive` is false, so that others can read
    beside it.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: str,
        synchronous: Synchronous = "normal",
        max_group_count: int = 512,
        session: Session | None = None,
        exclusive: bool = True,
    ) -> None:
        self._path, self._synchronous, self._exclusive = path, synchronous, exclusive
        self._group = Group(path, schema, session)
        self._max_group_count = max_group_count
        self._tasks: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def open(self) -> None:
        """See Writer. Starts the thread."""
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(ready,), name=f"sqlite-{self._path.stem}", daemon=True
        )
        self._thread.start()
        await ready

    def submit(self, job: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """See Writer."""
        if self._loop is None or self._closed:
            raise closed_error(self._path)
        waiter: asyncio.Future[Result] = self._loop.create_future()
        self._tasks.put(Task(job, waiter))
        return waiter

    async def run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        """See Writer."""
        return await self.submit(job)

    def post(self, job: Callable[[sqlite3.Connection], object]) -> None:
        """See Writer."""
        if self._loop is None or self._closed:
            raise closed_error(self._path)
        self._tasks.put(Task(job, None))

    async def close(self) -> None:
        """See Writer."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self, ready: asyncio.Future[None]) -> None:
        locking = ("locking_mode=EXCLUSIVE",) if self._exclusive else ()
        try:
            self._group.open(*locking, "journal_mode=WAL", f"synchronous={self._synchronous}")
        except Exception as error:
            self._call(_settle_ready, ready, explain(error, self._path))
            return
        self._call(_settle_ready, ready, None)
        try:
            last = False
            while not last:
                tasks, last = self._next_tasks()
                if tasks:
                    self._group.run(tasks)
                    self._call(resolve, tasks)
        finally:
            self._group.close()

    def _next_tasks(self) -> tuple[list[Task[Any]], bool]:
        tasks: list[Task[Any]] = []
        task = self._tasks.get()
        while task is not None:
            tasks.append(task)
            if len(tasks) >= self._max_group_count:
                return tasks, False
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return tasks, False
        return tasks, True

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            _log.debug("the event loop ended before the writer of %s did", self._path.name)


def _settle_ready(ready: asyncio.Future[None], error: Exception | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
