"""Writes that survive the loss of power: while one fdatasync runs in a thread, the next group collects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from farthing.kit.errors import FarthingError
from farthing.kit.journal import Entry, Journal, Position

_Waiter = tuple[asyncio.Future[None], bool]


class SyncRounds:
    """One round after the other: stage what is queued, sync, commit.

    `take` hands over what is queued, `accept` gets it with its position once it is safe, and `reject`
    with the error and whether somebody is told that his entry is not kept.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        take: Callable[[], list[Entry]],
        accept: Callable[[Sequence[Entry], Position], None],
        reject: Callable[[list[Entry], bool, BaseException], None],
    ) -> None:
        self._journal = journal
        self._take, self._accept, self._reject = take, accept, reject
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox-sync")
        self._waiters: list[_Waiter] = []
        self._syncing: asyncio.Future[None] | None = None

    def join(self, *, has_entry: bool) -> asyncio.Future[None]:
        """Done when everything queued by now is safe; fails as its round does. Begin a round to get there.

        `has_entry`: the last entry queued is the caller's, and need not be kept when he is told that it is not.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((waiter, has_entry))
        return waiter

    def begin(self) -> None:
        """Begin a round, unless one is under way: the next begins by itself then."""
        if self._syncing is not None:
            return
        entries, waiters = self._take(), self._waiters
        if not entries and not waiters and not self._journal.has_unwritten:
            return
        self._waiters = []
        try:
            position = self._journal.stage(entries)
        except FarthingError as error:
            self._fail(entries, waiters, error)
            return
        if not entries:
            # Acknowledgements alone: to lose them is to deliver again, which changes nothing.
            self._succeed(entries, waiters, position)
            return
        loop = asyncio.get_running_loop()
        self._syncing = loop.run_in_executor(self._thread, self._journal.sync)
        self._syncing.add_done_callback(
            lambda synced: self._end(entries, waiters, position, synced)
        )

    async def close(self) -> None:
        """Wait for the round under way, and end the thread."""
        while self._syncing is not None:
            await asyncio.wait([self._syncing])
        self._thread.shutdown()

    def _end(
        self,
        entries: list[Entry],
        waiters: list[_Waiter],
        position: Position,
        synced: asyncio.Future[None],
    ) -> None:
        self._syncing = None
        error = synced.exception()
        if error is None:
            self._succeed(entries, waiters, position)
            self.begin()
            return
        self._journal.take_back()
        self._fail(entries, waiters, error)
        if self._waiters:
            self.begin()

    def _succeed(
        self,
        entries: list[Entry],
        waiters: list[_Waiter],
        position: Position,
    ) -> None:
        self._journal.commit()
        self._accept(entries, position)
        for waiter, _ in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _fail(
        self,
        entries: list[Entry],
        waiters: list[_Waiter],
        error: BaseException,
    ) -> None:
        self._reject(entries, any(has_entry for _, has_entry in waiters), error)
        for waiter, _ in waiters:
            if not waiter.done():
                waiter.set_exception(error)
