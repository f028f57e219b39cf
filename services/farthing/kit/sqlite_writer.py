"""One thread that owns one SQLite file: jobs queue up while a transaction commits, then share the next one."""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from farthing.kit.durability import Synchronous
from farthing.kit.errors import FailedPrecondition, FarthingError, Unavailable

Result = TypeVar("Result")

_LOCK_WAIT_S = 2.0
_log = logging.getLogger(__name__)


class Session(Protocol):
    """What lives beside the connection and must follow its transactions. Called in the writer's thread."""

    def open(self, connection: sqlite3.Connection) -> None:
        """Read what is needed from the file, once, before the first job."""
        ...

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what the jobs of this transaction changed; COMMIT follows."""
        ...

    def committed(self) -> None:
        """The transaction is safe."""
        ...

    def rolled_back(self) -> None:
        """Nothing of the transaction happened."""
        ...


class _NoSession:
    def open(self, connection: sqlite3.Connection) -> None: ...
    def flush(self, connection: sqlite3.Connection) -> None: ...
    def committed(self) -> None: ...
    def rolled_back(self) -> None: ...


class _Task(Generic[Result]):
    __slots__ = ("error", "job", "result", "waiter")

    def __init__(
        self,
        job: Callable[[sqlite3.Connection], Result],
        waiter: asyncio.Future[Result] | None,
    ) -> None:
        self.job, self.waiter = job, waiter
        self.result: Result | None = None
        self.error: Exception | None = None

    def resolve(self) -> None:
        if self.waiter is None or self.waiter.done():
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)  # type: ignore[arg-type]


class SqliteWriter:
    """Runs jobs on a SQLite file in order, many to a transaction, off the event loop.

    What `run` has returned survives the death of the process. It survives the loss of power only
    with synchronous="full", which costs an fsync per transaction. The file is locked for this
    connection alone unless `exclusive` is false, so that others can read beside it. A job that
    means to refuse raises a FarthingError before it writes anything.
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
        self._path, self._schema, self._synchronous = path, schema, synchronous
        self._exclusive = exclusive
        self._max_group_count = max_group_count
        self._session: Session = session or _NoSession()
        self._tasks: queue.SimpleQueue[_Task[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the file and start the thread.

        FailedPrecondition when another process has the file, Unavailable when it cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(ready,), name=f"sqlite-{self._path.stem}", daemon=True
        )
        self._thread.start()
        await ready

    def submit(self, job: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Put `job` in the queue now; the future gets its result once its transaction is committed.

        Or Unavailable (STORE_WRITE_FAILED) when the file cannot be written; nothing has happened then.
        """
        if self._loop is None or self._closed:
            raise _closed(self._path)
        waiter: asyncio.Future[Result] = self._loop.create_future()
        self._tasks.put(_Task(job, waiter))
        return waiter

    async def run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `job` as `submit` does and wait for it. A caller that goes away does not stop it."""
        return await self.submit(job)

    def post(self, job: Callable[[sqlite3.Connection], object]) -> None:
        """Run `job` in its turn, without waiting. A failure is logged."""
        if self._loop is None or self._closed:
            raise _closed(self._path)
        self._tasks.put(_Task(job, None))

    async def close(self) -> None:
        """Finish all jobs, then close the file. May be called twice."""
        if self._thread is None or self._closed:
            return
        self._closed = True
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self, ready: asyncio.Future[None]) -> None:
        try:
            connection = self._connect()
        except Exception as error:
            self._call(_settle_ready, ready, _explain(error, self._path))
            return
        self._call(_settle_ready, ready, None)
        try:
            last = False
            while not last:
                group, last = self._next_group()
                if group:
                    self._run_group(connection, group)
                    self._call(_resolve, group)
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=_LOCK_WAIT_S)
        try:
            if self._exclusive:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={self._synchronous.upper()}")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.executescript(f"BEGIN IMMEDIATE; {self._schema}; COMMIT;")
            self._session.open(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _next_group(self) -> tuple[list[_Task[Any]], bool]:
        group: list[_Task[Any]] = []
        task = self._tasks.get()
        while task is not None:
            group.append(task)
            if len(group) >= self._max_group_count:
                return group, False
            try:
                task = self._tasks.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _run_group(self, connection: sqlite3.Connection, group: list[_Task[Any]]) -> None:
        try:
            self._transact(connection, group)
        except Exception as error:
            if len(group) > 1:
                # One bad job must not take the others with it: each gets a transaction of its own.
                for task in group:
                    self._run_group(connection, [task])
                return
            group[0].error = _explain(error, self._path)
            if group[0].waiter is None:
                _log.error("a write was lost: %s", group[0].error)

    def _transact(self, connection: sqlite3.Connection, group: list[_Task[Any]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for task in group:
                task.error = None
                try:
                    task.result = task.job(connection)
                except FarthingError as refusal:
                    task.error = refusal
            self._session.flush(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._session.rolled_back()
            raise
        self._session.committed()

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


def _resolve(group: list[_Task[Any]]) -> None:
    for task in group:
        task.resolve()


def _closed(path: Path) -> FarthingError:
    return Unavailable(
        f"{path.name} is not open", reason="STORE_CLOSED", metadata={"file": path.name}
    )


def _explain(error: Exception, path: Path) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    if "locked" in str(error):
        return FailedPrecondition(
            f"{path} is in use by another process; stop it or give this one another FARTHING_DATA_DIR",
            reason="STORE_IN_USE",
            metadata={"file": path.name},
        )
    return Unavailable(
        f"{path} cannot be written ({error}); check the disk's free space and permissions",
        reason="STORE_WRITE_FAILED",
        metadata={"file": path.name},
        retry_after_ms=1000,
    )
