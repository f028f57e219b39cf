"""Tells watchers of keys as they are stored, and cuts off the one who cannot keep up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from farthing.clients.bounded_index import Key
from farthing.clients.key_filter import PREFIX_BYTES, prefix_of
from farthing.kit.errors import ResourceExhausted, Unavailable

MESSAGE_BYTES = 64 * 1024
# Hashing so many keys takes about a millisecond, for which lookups wait.
_SNAPSHOT_MESSAGE_BYTES = 1024 * PREFIX_BYTES


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """Limits of a feed. `waiting_limit_bytes` is of one watcher, at 8 bytes a key."""

    linger_s: float = 0.1
    keep_alive_s: float = 0.8
    waiting_limit_bytes: int = 4 * MESSAGE_BYTES
    watcher_limit_count: int = 256


class KeyFeed:
    """Used on one event loop. What is published while someone watches is told to them, unless they are cut off."""

    def __init__(self, options: FeedOptions | None = None) -> None:
        self._options = options or FeedOptions()
        self._watchers: set[_Watcher] = set()
        self._closed = False

    def publish(self, keys: Iterable[Key]) -> None:
        """Tell every watcher of keys that were stored, or may have been."""
        if not self._watchers:
            return
        prefixes = join_prefixes(keys)
        for watcher in tuple(self._watchers):
            if not watcher.offer(prefixes):
                self._watchers.discard(watcher)

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Prefixes of what is published from now on, joined, at most 64 KiB at once; b"" for a sign of life.

        Ends with the feed. ResourceExhausted when the watcher reads too slowly, or there are too many already.
        """
        if self._closed:
            raise Unavailable("the cache service stops", reason="CLOSING")
        if len(self._watchers) >= self._options.watcher_limit_count:
            raise ResourceExhausted(
                f"{len(self._watchers)} callers watch the keys already; look up every key",
                reason="TOO_MANY_WATCHERS",
                metadata={"watcher_count": str(len(self._watchers))},
            )
        watcher = _Watcher(self._options)
        additions = watcher.read()
        self._watchers.add(watcher)
        try:
            yield additions
        finally:
            self._watchers.discard(watcher)
            await additions.aclose()

    def close(self) -> None:
        """End every watch, now and later: the service stops."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end()


def join_prefixes(keys: Iterable[Key]) -> bytes:
    """The keys' prefixes, one after the other."""
    return b"".join([prefix_of(key.tenant_id, key.request_hash) for key in keys])


def split_keys(keys: tuple[Key, ...]) -> Iterator[bytes]:
    """The keys' prefixes in portions that are quick to make."""
    portion_count = _SNAPSHOT_MESSAGE_BYTES // PREFIX_BYTES
    for first in range(0, len(keys), portion_count):
        yield join_prefixes(keys[first : first + portion_count])


class _Watcher:
    """What waits for one caller, bounded."""

    def __init__(self, options: FeedOptions) -> None:
        self._options = options
        self._waiting = bytearray()
        self._wake = asyncio.Event()
        self._ended = self._cut_off = False

    def offer(self, prefixes: bytes) -> bool:
        """False when there is no room: the watcher is then cut off, for it would miss keys."""
        if len(self._waiting) + len(prefixes) > self._options.waiting_limit_bytes:
            self._cut_off = True
            self._waiting.clear()
        else:
            self._waiting += prefixes
        self._wake.set()
        return not self._cut_off

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def read(self) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with asyncio.timeout(self._options.keep_alive_s):
                    await self._wake.wait()
            except TimeoutError:
                yield b""
                continue
            if self._ended:
                return
            # Others may join: a message costs each watcher more than what it carries.
            await asyncio.sleep(self._options.linger_s)
            if self._cut_off:
                raise ResourceExhausted(
                    "the watcher reads more slowly than keys are stored; watch anew",
                    reason="WATCHER_TOO_SLOW",
                    metadata={"limit_bytes": str(self._options.waiting_limit_bytes)},
                )
            waiting = bytes(self._waiting)
            self._waiting.clear()
            if not self._ended:
                self._wake.clear()
            for first in range(0, len(waiting), MESSAGE_BYTES):
                yield waiting[first : first + MESSAGE_BYTES]
