"""Jobs on a SQLite connection, many to a transaction: what every writer of a file does, whichever thread it is in."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from farthing.kit.errors import FailedPrecondition, FarthingError, Unavailable

Result = TypeVar("Result")

LOCK_WAIT_S = 2.0
_log = logging.getLogger(__name__)


class Writer(Protocol):
    """Runs jobs on a SQLite file in order, many to a transaction.

    What `run` has returned survives the death of the process. A job that means to refuse raises a FarthingError before
    it writes anything.
    """

    async def open(self) -> None:
        """Open the file. FailedPrecondition when another process has it, Unavailable when it cannot be used."""
        ...

    def submit(self, job: Callable[[sqlite3.Connection], Result]) -> asyncio.Future[Result]:
        """Put `job` in the queue now; the future gets its result once its transaction is committed.

        Or Unavailable (STORE_WRITE_FAILED) when the file cannot be written; nothing has happened then.
        """
        ...

    async def run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `job` as `submit` does and wait for it. A caller that goes away does not stop it."""
        ...

    def post(self, job: Callable[[sqlite3.Connection], object]) -> None:
        """Run `job` in its turn, without waiting. A failure is logged."""
        ...

    async def close(self) -> None:
        """Finish all jobs, then close the file. May be called twice."""
        ...


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


class Task(Generic[Result]):
    """A job, who waits for it, and what became of it."""

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
        """Tell whoever waits."""
        if self.waiter is None or self.waiter.done():
            return
        if self.error is not None:
            self.waiter.set_exception(self.error)
        else:
            self.waiter.set_result(self.result)  # type: ignore[arg-type]


class Group:
    """The connection, and jobs run on it in one transaction. For one thread at a time."""

    def __init__(self, path: Path, schema: str, session: Session | None) -> None:
        self._path, self._schema = path, schema
        self._session: Session = session or _NoSession()
        self.connection: sqlite3.Connection | None = None

    def open(self, *pragmas: str, check_same_thread: bool = True) -> None:
        """Connect; `pragmas` first, then the schema, then the session."""
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            timeout=LOCK_WAIT_S,
            check_same_thread=check_same_thread,
        )
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.executescript(f"BEGIN IMMEDIATE; {self._schema}; COMMIT;")
            self._session.open(connection)
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def close(self) -> None:
        """Let go of the file."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def run(self, tasks: list[Task[Any]]) -> None:
        """Run tasks in one transaction; each then has its result or its error."""
        try:
            self._transact(tasks)
        except Exception as error:
            if len(tasks) > 1:
                # One bad job must not take the others with it: each gets a transaction of its own.
                for task in tasks:
                    self.run([task])
                return
            tasks[0].error = explain(error, self._path)
            if tasks[0].waiter is None:
                _log.error("a write was lost: %s", tasks[0].error)

    def _transact(self, tasks: list[Task[Any]]) -> None:
        connection = self.connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            for task in tasks:
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


def resolve(tasks: list[Task[Any]]) -> None:
    """Tell all who wait."""
    for task in tasks:
        task.resolve()


def closed_error(path: Path) -> FarthingError:
    """For work that comes before `open` or after `close`."""
    return Unavailable(
        f"{path.name} is not open", reason="STORE_CLOSED", metadata={"file": path.name}
    )


def explain(error: Exception, path: Path) -> Exception:
    """What SQLite says as a caller can act on it; other errors as they are."""
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
