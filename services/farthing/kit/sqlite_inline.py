"""Writes to one SQLite file from the event loop: what comes in one turn of the loop is one transaction."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.kit.file_lock import FileLock
from farthing.kit.sqlite_group import (
    LOCK_WAIT_S,
    Group,
    Result,
    Session,
    Task,
    closed_error,
    explain,
    resolve,
)

_CHECKPOINT_COMMITS = 1000
_log = logging.getLogger(__name__)


class InlineSqliteWriter:
    """Writer on the event loop: what comes in one turn of the loop is one transaction at the turn's end.

    For synchronous=normal, where a commit is a write to the kernel's cache: a thread would take longer to wake up than
    the commit takes (docs/decisions/0015). Nothing here waits for the disk: the log is carried over into the file by a
    thread, beside the writes. Jobs must be short, for the loop waits for them.
    """

    def __init__(self, path: Path, *, schema: str, session: Session | None = None) -> None:
        self._path = path
        self._group = Group(path, schema, session)
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self._tasks: list[Task[Any]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._commit_count = 0
        self._checkpoint: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """See Writer."""
        self._lock.acquire()
        try:
            await asyncio.to_thread(self._open)
        except Exception as error:
            self._lock.release()
            raise explain(error, self._path) from error
        self._loop = asyncio.get_running_loop()

    def submit(self, job: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """See Writer."""
        waiter: asyncio.Future[Result] = self._queue_loop().create_future()
        self._tasks.append(Task(job, waiter))
        return waiter

    async def run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        """See Writer."""
        return await self.submit(job)

    def post(self, job: Callable[[sqlite3.Connection], object]) -> None:
        """See Writer."""
        self._queue_loop()
        self._tasks.append(Task(job, None))

    async def close(self) -> None:
        """See Writer."""
        if self._loop is None or self._closed:
            return
        self._run_tasks()
        self._closed = True
        if self._checkpoint is not None:
            await self._checkpoint
        self._group.close()
        self._lock.release()

    def _queue_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._closed:
            raise closed_error(self._path)
        if not self._tasks:
            self._loop.call_soon(self._run_tasks)
        return self._loop

    def _open(self) -> None:
        self._group.open(
            "journal_mode=WAL",
            "synchronous=normal",
            "wal_autocheckpoint=0",  # it would wait for the disk, on the loop
            check_same_thread=False,
        )

    def _run_tasks(self) -> None:
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._group.run(tasks)
        resolve(tasks)
        self._commit_count += 1
        if self._commit_count >= _CHECKPOINT_COMMITS and self._checkpoint is None:
            self._commit_count = 0
            assert self._loop is not None
            self._checkpoint = self._loop.run_in_executor(None, _checkpoint, self._path)
            self._checkpoint.add_done_callback(self._note_checkpoint)

    def _note_checkpoint(self, done: asyncio.Future[None]) -> None:
        self._checkpoint = None
        if not done.cancelled() and (error := done.exception()) is not None:
            # The log grows until one works; what is written is safe in it.
            _log.warning("%s: its log was not carried over: %s", self._path.name, error)


def _checkpoint(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    finally:
        connection.close()
