"""Hands events from an engine's thread to the event loop, one wake-up for all that are ready."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from farthing.inference.engine import DoneEvent, EngineEvent, TokenEvent


class EventStream:
    """Written by any one thread, read by one task. Ends with a DoneEvent or an exception.

    It holds no more than one answer, so the model's context bounds it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ready: deque[EngineEvent | Exception] = deque()
        self._wake = asyncio.Event()
        self.ended = False

    def put(self, event: EngineEvent | Exception) -> None:
        """Adds an event or the exception that ends the stream; what follows an end is dropped."""
        if self.ended:
            return
        self.ended = not isinstance(event, TokenEvent)
        self._ready.append(event)
        # More than one entry: the reader was woken for an earlier one and will see this one.
        if len(self._ready) == 1:
            call_soon(self._loop, self._wake.set)

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """Yields the events, joining token events that are ready at the same time."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            tokens: list[TokenEvent] = []
            while self._ready:
                event = self._ready.popleft()
                if isinstance(event, TokenEvent):
                    tokens.append(event)
                    continue
                if tokens:
                    yield _join(tokens)
                if isinstance(event, DoneEvent):
                    yield event
                    return
                raise event
            if tokens:
                yield _join(tokens)


def call_soon(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object
) -> None:
    """Calls back on the loop's thread, unless the loop is gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, *args)


def _join(events: list[TokenEvent]) -> TokenEvent:
    if len(events) == 1:
        return events[0]
    return TokenEvent(
        "".join(event.text for event in events),
        sum(event.token_count for event in events),
        tuple(logprob for event in events for logprob in event.logprobs),
    )
