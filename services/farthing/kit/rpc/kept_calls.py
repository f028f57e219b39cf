"""Calls that their callers keep open: the service ends them when it stops, each after the answer that is under way."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc


class KeptCalls:
    """The kept calls of a service. Give `end` to `RpcServer.add` as `end_streams`."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[Any]] = set()
        self._ending = asyncio.Event()

    @property
    def is_ending(self) -> bool:
        """Whether the service stops."""
        return self._ending.is_set()

    async def wait_end(self) -> None:
        """Return when the service stops."""
        await self._ending.wait()

    async def next(self, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The caller's next message; None when the call is over, by either side, and not to be read any more.

        Await it in the handler's own task.
        """
        task = asyncio.current_task()
        if self.is_ending or task is None:
            return None
        self._waiting.add(task)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            # A handler that goes on being cancelled sends no status, and its caller would wait for one.
            if self.is_ending and task.uncancel() == 0:
                return None
            raise
        finally:
            self._waiting.discard(task)
        return None if message is grpc.aio.EOF else message

    def end(self) -> None:
        """End the calls that wait for a message; the others end with their next one."""
        self._ending.set()
        for task in self._waiting:
            task.cancel()
