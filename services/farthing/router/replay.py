"""Repeats of a request id: the second caller gets the first one's answer, now or when it is there, and pays nothing."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from farthing.api.router.v1 import router_pb2
from farthing.kit.clock import Clock
from farthing.kit.errors import Aborted, AlreadyExists
from farthing.router.exchange import Event, Send

KEEP_S = 600.0
_MOST_BYTES = 4 * 1024 * 1024
_ENTRY_OVERHEAD_BYTES = 1024


class ReplayLog:
    """Answers of the last ten minutes by (API key digest, request id), bounded in bytes; the oldest go first."""

    def __init__(self, clock: Clock, *, most_bytes: int = _MOST_BYTES) -> None:
        self._clock, self._most_bytes, self._size = clock, most_bytes, 0
        self._entries: dict[tuple[bytes, str], _Entry] = {}
        self._finished: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    async def play(
        self,
        key: tuple[bytes, str],
        fingerprint: bytes,
        run: Callable[[Send], Awaitable[None]],
        send: Send,
    ) -> None:
        """Have `run` send its events on and keep them; or, if `key` has been seen, send what was kept.

        AlreadyExists when `fingerprint`, the request's content, is another than the first time. Aborted when the
        first call failed while the second waited for it: try again with the same id.
        """
        self._expire()
        known = self._entries.get(key)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise AlreadyExists(
                    f"request_id {key[1]} was used for another request; take a new one",
                    reason="REQUEST_ID_REUSED",
                    metadata={"request_id": key[1]},
                )
            for event in await known.wait():
                await send(event)
            return
        entry = self._entries[key] = _Entry(fingerprint)

        async def keep(event: Event) -> None:
            entry.events.append(event)
            await send(event)

        try:
            await run(keep)
        except BaseException:
            self._entries.pop(key, None)
            entry.fail()
            raise
        entry.finish(self._clock.monotonic())
        self._finished[key] = None
        self._size += entry.size_bytes
        self._expire()

    def _expire(self) -> None:
        oldest_kept = self._clock.monotonic() - KEEP_S
        while self._finished:
            key = next(iter(self._finished))
            entry = self._entries[key]
            if entry.finished_s > oldest_kept and self._size <= self._most_bytes:
                return
            del self._finished[key], self._entries[key]
            self._size -= entry.size_bytes


class _Entry:
    __slots__ = (
        "_finished",
        "_kept",
        "done",
        "events",
        "fingerprint",
        "finished_s",
        "size_bytes",
    )

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.finished_s, self.size_bytes, self.done = 0.0, 0, False
        self.events: list[router_pb2.GenerateResponse] = []
        self._kept: tuple[bytes, ...] = ()
        self._finished: asyncio.Future[bool] | None = None

    async def wait(self) -> list[router_pb2.GenerateResponse]:
        if not self.done:
            if self._finished is None:
                self._finished = asyncio.get_running_loop().create_future()
            if not await asyncio.shield(self._finished):
                raise Aborted(
                    "the first call with this request_id failed; try again",
                    reason="FIRST_CALL_FAILED",
                    retry_after_ms=1,
                )
        return [router_pb2.GenerateResponse.FromString(kept) for kept in self._kept]

    def finish(self, now_s: float) -> None:
        # A message object takes many times its encoded size, and a stream has one for each token.
        self._kept = tuple(event.SerializeToString() for event in _join_deltas(self.events))
        self.events = []
        self.size_bytes = sum(map(len, self._kept)) + _ENTRY_OVERHEAD_BYTES
        self.finished_s, self.done = now_s, True
        self._tell(True)

    def fail(self) -> None:
        self._tell(False)

    def _tell(self, success: bool) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(success)


def _join_deltas(
    events: list[router_pb2.GenerateResponse],
) -> list[router_pb2.GenerateResponse]:
    """The same answer with all its text in one delta, where the first one was."""
    joined: list[router_pb2.GenerateResponse] = []
    whole: router_pb2.GenerateResponse | None = None
    texts: list[str] = []
    for event in events:
        if not event.HasField("delta"):
            joined.append(event)
            continue
        texts.append(event.delta.text)
        if whole is None:
            whole = router_pb2.GenerateResponse()
            whole.CopyFrom(event)
            joined.append(whole)
        else:
            whole.delta.token_count += event.delta.token_count
            whole.delta.logprobs.extend(event.delta.logprobs)
    if whole is not None:
        whole.delta.text = "".join(texts)
    return joined
