"""Natural micro-batching: while one call is under way the next requests queue up, then go together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from farthing.kit.errors import FarthingError, Internal, ResourceExhausted, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

_RETRY_AFTER_MS = 100


class MicroBatcher(Generic[Item, Result]):
    """Collects single items into batches for `send`, without ever waiting for company.

    Each lane has at most one `send` under way. An item that finds a lane idle leaves at once (alone,
    or with what else came in the same turn of the event loop); the others leave together when
    a lane comes free. Order within a batch is order of submission. Use it from one event loop.

    `send(items)` answers with one result per item, in order. What it raises reaches every waiter of
    that batch. It bounds its own time: the batcher adds no deadline.
    `on_abandoned(item, result)` gets the answers nobody waits for any more, so that what they hold
    can be given back.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        lane_count: int = 1,
        max_batch_count: int = 512,
        max_queue_count: int = 8192,
        on_abandoned: Callable[[Item, Result], None] | None = None,
    ) -> None:
        self._send = send
        self._lane_count = lane_count
        self._max_batch_count = max_batch_count
        self._max_queue_count = max_queue_count
        self._on_abandoned = on_abandoned
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def queue_count(self) -> int:
        """Items that wait for a lane now."""
        return len(self._queue)

    async def submit(self, item: Item) -> Result:
        """Return the result of `item`.

        ResourceExhausted when the queue is full, Unavailable after `close`, and whatever `send` raises.
        Cancelling the waiter takes the item out if it has not left yet; other items do not notice.
        """
        if self._closed:
            raise _closed()
        if len(self._queue) >= self._max_queue_count:
            raise ResourceExhausted(
                f"{len(self._queue)} requests already wait to be sent; try again later",
                reason="BATCH_QUEUE_FULL",
                metadata={"queue_count": str(len(self._queue))},
                retry_after_ms=_RETRY_AFTER_MS,
            )
        waiter: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append((item, waiter))
        if len(self._lanes) < self._lane_count:
            self._lanes.add(asyncio.create_task(self._run_lane()))
        return await waiter

    async def close(self) -> None:
        """Cancel what is under way and fail everything that waits with Unavailable."""
        self._closed = True
        lanes = list(self._lanes)
        for lane in lanes:
            lane.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        while self._queue:
            _fail(self._queue.popleft()[1], _closed())

    async def _run_lane(self) -> None:
        try:
            await self._drain()
        finally:
            # In the same turn in which the queue was found empty: a later item starts a new lane.
            lane = asyncio.current_task()
            assert lane is not None
            self._lanes.discard(lane)

    async def _drain(self) -> None:
        while batch := self._take():
            items = [item for item, _ in batch]
            try:
                results = await self._send(items)
                if len(results) != len(batch):
                    raise Internal(
                        f"a batch of {len(batch)} got {len(results)} answers",
                        reason="BATCH_ANSWER_COUNT",
                    )
            except asyncio.CancelledError:
                for _, waiter in batch:
                    _fail(waiter, _closed())
                raise
            except Exception as error:
                for _, waiter in batch:
                    _fail(waiter, error)
                continue
            for (item, waiter), result in zip(batch, results, strict=True):
                if not waiter.done():
                    waiter.set_result(result)
                elif self._on_abandoned is not None:
                    self._on_abandoned(item, result)

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._queue and len(batch) < self._max_batch_count:
            entry = self._queue.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch


def _fail(waiter: asyncio.Future[Result], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)


def _closed() -> FarthingError:
    return Unavailable("the client is closed", reason="CLIENT_CLOSED")
