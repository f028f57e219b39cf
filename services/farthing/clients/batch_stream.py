"""Natural batches over one kept call: what comes while a message is being written goes with the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import grpc

from farthing.kit.errors import FarthingError, Internal, ResourceExhausted, Unavailable
from farthing.kit.rpc.channel import decode_error

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_RETRY_AFTER_MS = 100


class Waiting(NamedTuple, Generic[Item, Answer]):
    """One item, who waits for its answer, and until when (loop time, seconds)."""

    item: Item
    waiter: asyncio.Future[Answer]
    deadline: float


class BatchStream(Generic[Item, Answer]):
    """Asks over a bidirectional call that answers each message with one, in order. Use it from one event loop.

    An item leaves at once, with what else came in the same turn of the loop; while a message is under way the others
    wait, and leave together. Against a unary call for each batch that is fewer wake-ups on both sides
    (docs/decisions/0014).

    `open_call()` begins a call, with the first item and whenever the one before has ended. `encode(items)` makes a
    message, `decode(items, message)` gives one answer an item. When the call is lost, or answers nothing for
    `deadline_s`, `on_lost(waiting, error)` gets all that were sent and not answered, though their waiter may be gone,
    and all that wait to be sent; it sees to their waiters. `on_abandoned(item, answer)` gets answers that nobody waits
    for any more, so that what they hold can be given back.
    """

    def __init__(
        self,
        open_call: Callable[[], Any],
        *,
        encode: Callable[[Sequence[Item]], Any],
        decode: Callable[[Sequence[Item], Any], Sequence[Answer]],
        deadline_s: float,
        on_lost: Callable[[Sequence[Waiting[Item, Answer]], FarthingError], None],
        on_abandoned: Callable[[Item, Answer], None] | None = None,
        max_batch_count: int = 512,
        max_waiting_count: int = 8192,
    ) -> None:
        self._open_call, self._encode, self._decode = open_call, encode, decode
        self._deadline_s, self._on_lost, self._on_abandoned = deadline_s, on_lost, on_abandoned
        self._max_batch_count, self._max_waiting_count = max_batch_count, max_waiting_count
        self._queue: deque[Waiting[Item, Answer]] = deque()
        self._sent: list[Waiting[Item, Answer]] = []  # the message under way
        self._idle: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """The answer to come. Cancelling it takes the item out if it has not left yet; other items do not notice.

        ResourceExhausted when too many wait already, Unavailable after `close`.
        """
        if self._closed:
            raise _closed()
        if len(self._queue) >= self._max_waiting_count:
            raise ResourceExhausted(
                f"{len(self._queue)} requests already wait to be sent; try again later",
                reason="BATCH_QUEUE_FULL",
                metadata={"queue_count": str(len(self._queue))},
                retry_after_ms=_RETRY_AFTER_MS,
            )
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        self._queue.append(Waiting(item, waiter, loop.time() + self._deadline_s))
        if self._task is None:
            self._task = loop.create_task(self._run())
        elif self._idle is not None:
            self._wake()
        return waiter

    async def close(self) -> None:
        """End the call and fail everything that waits with Unavailable."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """One call, from the item that begins it to its loss."""
        loss: FarthingError = _ended()
        try:
            self._call = call = self._open_call()
            call.add_done_callback(lambda _: self._wake())
            try:
                while not call.done():
                    if batch := self._take():
                        await self._ask(batch)
                    else:
                        self._idle = asyncio.get_running_loop().create_future()
                        await self._idle
            finally:
                call.cancel()
        except grpc.aio.AioRpcError as error:
            # gRPC's core calls a write to a call that has just ended an internal error.
            if error.code() is not grpc.StatusCode.INTERNAL:
                loss = decode_error(error)
        except asyncio.InvalidStateError:
            pass  # the call ended just before the write
        except FarthingError as error:
            loss = error
        except asyncio.CancelledError:
            # Our own cancel of a call that has not answered in time arrives in this way too.
            loss = _closed() if self._closed else _overdue()
        finally:
            self._task = self._call = None
            self._lose(loss)

    def _take(self) -> list[Waiting[Item, Answer]]:
        batch: list[Waiting[Item, Answer]] = []
        while self._queue and len(batch) < self._max_batch_count:
            one = self._queue.popleft()
            if not one.waiter.done():
                batch.append(one)
        return batch

    async def _ask(self, batch: list[Waiting[Item, Answer]]) -> None:
        self._sent = batch
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(batch[0].deadline, self._check_overdue)
        items = [one.item for one in batch]
        await self._call.write(self._encode(items))
        message = await self._call.read()
        if message is grpc.aio.EOF:
            raise _ended()
        answers = self._decode(items, message)
        if len(answers) != len(batch):
            raise Internal(
                f"a batch of {len(batch)} got {len(answers)} answers",
                reason="BATCH_ANSWER_COUNT",
            )
        self._sent = []
        for one, answer in zip(batch, answers, strict=True):
            if not one.waiter.done():
                one.waiter.set_result(answer)
            elif self._on_abandoned is not None:
                self._on_abandoned(one.item, answer)

    def _lose(self, loss: FarthingError) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._sent + [one for one in self._queue if not one.waiter.done()]
        self._sent = []
        self._queue.clear()
        if waiting:
            self._on_lost(waiting, loss)

    def _check_overdue(self) -> None:
        """One timer for all: it looks at the message under way, and comes again at that one's time."""
        self._timer = None
        if not self._sent:
            return
        loop, deadline = asyncio.get_running_loop(), self._sent[0].deadline
        if deadline > loop.time():
            self._timer = loop.call_at(deadline, self._check_overdue)
        else:
            self._call.cancel()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)


def _ended() -> FarthingError:
    return Unavailable("the service ended the call", reason="CALL_ENDED")


def _overdue() -> FarthingError:
    return Unavailable("no answer in time", reason="DEADLINE")


def _closed() -> FarthingError:
    return Unavailable("the client is closed", reason="CLIENT_CLOSED")
