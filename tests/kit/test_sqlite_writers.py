"""One set of tests for every writer of a SQLite file: order, groups, refusals, failures, one owner, and survival."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from farthing.kit.errors import FailedPrecondition, InvalidArgument, Unavailable
from farthing.kit.sqlite_group import Writer
from farthing.kit.sqlite_inline import InlineSqliteWriter
from farthing.kit.sqlite_writer import SqliteWriter
from farthing.kit.testing import eventually

ROOT = Path(__file__).parents[2]
_SCHEMA = "CREATE TABLE IF NOT EXISTS word (place INTEGER PRIMARY KEY, text TEXT UNIQUE)"
Make = Callable[..., Writer]
_WRITERS: dict[str, Make] = {
    "inline": InlineSqliteWriter,
    "thread": SqliteWriter,
    "thread, full": lambda *args, **kw: SqliteWriter(*args, synchronous="full", **kw),
}


class Lab:
    """Opens writers on one file; they are closed at the end."""

    def __init__(self, make: Make, path: Path, stack: AsyncExitStack) -> None:
        self._make, self.path, self._stack = make, path, stack

    async def open(self, **options: Any) -> Writer:
        writer = self._make(self.path, schema=_SCHEMA, **options)
        await writer.open()
        self._stack.push_async_callback(writer.close)
        return writer


@pytest.fixture(params=_WRITERS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    async with AsyncExitStack() as stack:
        yield Lab(_WRITERS[request.param], tmp_path / "words.sqlite", stack)


def add(text: str) -> Callable[[sqlite3.Connection], int]:
    def job(db: sqlite3.Connection) -> int:
        return db.execute("INSERT INTO word (text) VALUES (?)", (text,)).lastrowid or 0

    return job


def texts(db: sqlite3.Connection) -> list[str]:
    return [text for (text,) in db.execute("SELECT text FROM word ORDER BY place")]


async def test_jobs_run_in_order_and_their_results_come_back(lab: Lab) -> None:
    writer = await lab.open()
    words = [f"word {number}" for number in range(1200)]
    places = await asyncio.gather(*(writer.submit(add(word)) for word in words))
    assert places == list(range(1, 1201))
    writer.post(add("posted"))
    assert await writer.run(texts) == [*words, "posted"]


async def test_jobs_of_one_turn_share_a_transaction(lab: Lab) -> None:
    session = Watching()
    writer = await lab.open(session=session)
    await asyncio.gather(*(writer.submit(add(f"word {number}")) for number in range(50)))
    assert 1 <= session.commit_count <= 2  # a thread may have taken the first one alone


async def test_a_refusal_reaches_its_caller_and_takes_nobody_with_it(lab: Lab) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        raise InvalidArgument("word is wrong; send another", field="word")

    writer = await lab.open()
    before, refused, after = (
        writer.submit(add("a")),
        writer.submit(refuse),
        writer.submit(add("b")),
    )
    with pytest.raises(InvalidArgument):
        await refused
    assert (await before, await after) == (1, 2)


async def test_a_job_that_fails_is_undone_alone(lab: Lab) -> None:
    session = Watching()
    writer = await lab.open(session=session)

    def half(db: sqlite3.Connection) -> None:
        add("half")(db)
        add("half")(db)

    before, failed, after = (
        writer.submit(add("a")),
        writer.submit(half),
        writer.submit(add("b")),
    )
    with pytest.raises(Unavailable) as caught:
        await failed
    assert caught.value.reason == "STORE_WRITE_FAILED"
    await before
    await after
    assert await writer.run(texts) == ["a", "b"]
    assert session.rollback_count >= 1


async def test_a_session_that_cannot_be_flushed_undoes_its_transaction(lab: Lab) -> None:
    session = Watching()
    writer = await lab.open(session=session)
    session.broken = True
    with pytest.raises(ZeroDivisionError):
        await writer.run(add("a"))
    session.broken = False
    await writer.run(add("b"))
    assert await writer.run(texts) == ["b"]


async def test_a_caller_that_goes_away_does_not_stop_its_job(lab: Lab) -> None:
    writer = await lab.open()
    writer.submit(add("left")).cancel()
    assert await writer.run(texts) == ["left"]


async def test_a_second_owner_of_the_file_is_refused_until_the_first_lets_go(lab: Lab) -> None:
    first = await lab.open()
    with pytest.raises(FailedPrecondition) as caught:
        await lab.open()
    assert caught.value.reason == "STORE_IN_USE"
    await first.close()
    second = await lab.open()
    assert await second.run(texts) == []


async def test_a_closed_writer_has_done_its_work_and_takes_no_more(lab: Lab) -> None:
    writer = await lab.open()
    writer.post(add("last"))
    await writer.close()
    await writer.close()
    for attempt in (writer.submit, writer.post):
        with pytest.raises(Unavailable) as caught:
            attempt(add("late"))
        assert caught.value.reason == "STORE_CLOSED"
    assert texts(sqlite3.connect(lab.path)) == ["last"]


async def test_a_file_that_cannot_be_made_is_named(lab: Lab) -> None:
    lab.path = lab.path.parent / "nowhere" / "words.sqlite"
    with pytest.raises(Unavailable) as caught:
        await lab.open()
    assert caught.value.reason == "STORE_WRITE_FAILED"


async def test_the_log_is_carried_over_into_the_file(lab: Lab) -> None:
    writer = await lab.open()
    for number in range(1_500):
        await writer.run(add(f"{number} " + "x" * 400))
    await eventually(lambda: lab.path.stat().st_size > 200_000, what="pages in the file itself")


_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.kit.test_sqlite_writers import _SCHEMA, _WRITERS, add

async def main():
    writer = _WRITERS[sys.argv[1]](Path(sys.argv[2]), schema=_SCHEMA)
    await writer.open()
    number = 0
    while True:
        await asyncio.gather(*(writer.run(add(f"{number + more}")) for more in range(7)))
        number += 7
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("name", _WRITERS)
async def test_what_was_answered_survives_sigkill(name: str, tmp_path: Path) -> None:
    path = tmp_path / "words.sqlite"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _KILLED, name, str(path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert process.stdout is not None
    for _ in range(40):
        await process.stdout.readline()
    process.kill()
    left = await process.stdout.read()
    await process.wait()
    answered = int(left.split(b"\n")[-2]) if b"\n" in left else 40 * 7
    writer = _WRITERS[name](path, schema=_SCHEMA)
    await writer.open()
    kept = await writer.run(texts)
    await writer.close()
    assert set(map(str, range(answered))) <= set(kept)


class Watching:
    """A session that counts."""

    def __init__(self) -> None:
        self.commit_count = self.rollback_count = 0
        self.broken = False

    def open(self, connection: sqlite3.Connection) -> None: ...

    def flush(self, connection: sqlite3.Connection) -> None:
        if self.broken:
            raise ZeroDivisionError

    def committed(self) -> None:
        self.commit_count += 1

    def rolled_back(self) -> None:
        self.rollback_count += 1
