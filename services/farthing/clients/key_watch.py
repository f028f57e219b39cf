"""What the cache service holds, followed by its WatchKeys stream, so that a miss is known without asking."""

from __future__ import annotations

import asyncio
import logging
import random

import grpc

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.clients.discovered_channel import DiscoveredChannel
from farthing.clients.key_filter import KeyFilter, prefix_of
from farthing.kit.clock import Clock
from farthing.kit.errors import FarthingError
from farthing.kit.ids import new_span_id, new_trace_id
from farthing.kit.rpc.channel import outgoing_metadata
from farthing.kit.telemetry.spans import TraceContext

_FRESH_S = 3.0  # the service speaks at least once a second
_REBUILD_S = 3600.0  # removed entries stay in a filter until it is made anew
_DEADLINE_S = _REBUILD_S + 60.0
_FIRST_DELAY_S = 0.2
_LAST_DELAY_S = 5.0
_log = logging.getLogger(__name__)


class KeyWatch:
    """Follows one cache instance in the background. Says nothing of any key while the stream is not there and complete,
    while it has been silent for 3 s, and while calls may go to several instances.
    """

    def __init__(self, channel: grpc.aio.Channel, *, clock: Clock) -> None:
        self._channel, self._clock = channel, clock
        self._stub = cache_pb2_grpc.CacheServiceStub(channel)
        self._task: asyncio.Task[None] | None = None
        self._address: str | None = None
        self._filter: KeyFilter | None = None
        self._complete = False
        self._heard_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether `excludes` may be True of any key now."""
        return (
            self._complete
            and self._clock.monotonic() - self._heard_s <= _FRESH_S
            and self._find_address() == self._address
        )

    def start(self) -> None:
        """Begin to follow, unless that was done. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    def excludes(self, tenant_id: str, request_hash: bytes) -> bool:
        """True when the cache surely held no such entry some 100 ms ago; False when it may, or nothing is known."""
        known = self._filter
        return (
            known is not None
            and self.usable
            and prefix_of(tenant_id, request_hash) not in known
        )

    def add(self, tenant_id: str, request_hash: bytes) -> None:
        """Count a key among those held, ahead of the service's own word."""
        if self._filter is not None:
            self._filter.add(prefix_of(tenant_id, request_hash))

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _find_address(self) -> str | None:
        """Where every call goes; None when there is a choice or no instance. A plain channel has one place, unnamed."""
        if isinstance(self._channel, DiscoveredChannel):
            return self._channel.sole_address
        return ""

    async def _follow(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            address = self._find_address()
            if address is None:
                await self._channel.wait_for_state_change(self._channel.get_state())
                continue
            try:
                await self._follow_once(address)
            except (FarthingError, grpc.aio.AioRpcError, TimeoutError) as error:
                level = logging.INFO if self._complete else logging.DEBUG
                _log.log(level, "the cache's keys are not known, asking every time: %r", error)
            finally:
                if self._complete:
                    delay_s = _FIRST_DELAY_S
                self._filter, self._complete = None, False
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

    async def _follow_once(self, address: str) -> None:
        """Returns when the filter should be made anew, or the service ended the stream."""
        # A call of an hour belongs to no request's trace, and is none of its own.
        unrecorded = TraceContext(new_trace_id(), new_span_id(), False)
        call = self._stub.WatchKeys(
            cache_pb2.WatchKeysRequest(),
            timeout=_DEADLINE_S,
            metadata=outgoing_metadata(unrecorded),
        )
        end_s = self._clock.monotonic() + _REBUILD_S
        known: KeyFilter | None = None
        try:
            while self._find_address() == address and self._clock.monotonic() < end_s:
                async with asyncio.timeout(_FRESH_S):
                    message = await call.read()
                if not isinstance(message, cache_pb2.WatchKeysResponse):
                    return
                if known is None:
                    known = self._filter = KeyFilter(message.entry_count)
                    self._address = address
                known.add_all(message.key_prefixes)
                self._heard_s = self._clock.monotonic()
                self._complete = message.snapshot_complete
                if known.crowded:
                    return
        finally:
            call.cancel()
