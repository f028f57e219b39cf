"""A channel to "the quota service" rather than to an address: each call goes to an instance that discovery knows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from farthing.kit.discovery import Instance, ServiceWatch, dial_address, place_of
from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.tls import TlsFiles

_GRACE_S = 30.0


class DiscoveredChannel(grpc.aio.Channel):
    """Prefers instances of its own region that are not suspect; of two at random the one with
    fewer calls in flight (power of two choices). Stubs are made on it as on any channel.
    """

    def __init__(
        self, watch: ServiceWatch, *, region: str, tls: TlsFiles | None = None
    ) -> None:
        self._watch, self._region, self._tls = watch, region, tls
        self._targets: dict[str, _Target] = {}
        self._choices: list[_Target] = []
        self.sole_address: str | None = None
        """Where every call goes now; None when there is no instance, or a choice."""
        self._closing: set[asyncio.Task[None]] = set()
        self._unsubscribe = watch.subscribe(self._follow)
        self._follow(watch.instances)

    def pick(self) -> _Target:
        """The instance for the next call. Unavailable when none is known."""
        choices = self._choices
        if len(choices) == 1:
            return choices[0]
        if not choices:
            raise Unavailable(
                f"no {self._watch.service} service is known; start one or wait for discovery",
                reason="SERVICE_UNKNOWN",
                metadata={"service": self._watch.service},
                retry_after_ms=1000,
            )
        first, second = random.sample(choices, 2)
        return first if first.in_flight <= second.in_flight else second

    def unary_unary(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _Method:
        """See grpc.aio.Channel."""
        return _Method(self, "unary_unary", (method, request_serializer, response_deserializer))

    def unary_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _Method:
        """See grpc.aio.Channel. A stream stays with the instance that it began with, and ends with it."""
        return _Method(
            self, "unary_stream", (method, request_serializer, response_deserializer)
        )

    def stream_stream(  # type: ignore[override]
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> _Method:
        """See grpc.aio.Channel; and unary_stream. Its messages are written to the call."""
        return _Method(
            self, "stream_stream", (method, request_serializer, response_deserializer)
        )

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Not part of our contracts. Stubs may ask for it, calls may not."""
        return _refuse_stream

    async def close(self, grace: float | None = None) -> None:
        """Close every connection."""
        self._unsubscribe()
        targets, self._targets, self._choices = list(self._targets.values()), {}, []
        self.sole_address = None
        await asyncio.gather(
            *(target.channel.close(grace) for target in targets), *self._closing
        )

    async def __aenter__(self) -> DiscoveredChannel:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY when an instance is known."""
        ready = bool(self._choices)
        return grpc.ChannelConnectivity.READY if ready else grpc.ChannelConnectivity.IDLE

    async def wait_for_state_change(
        self, last_observed_state: grpc.ChannelConnectivity
    ) -> None:
        """Return when the set of instances changes."""
        await self._watch.changed()

    async def channel_ready(self) -> None:
        """Return when an instance is known."""
        while not self._choices:
            await self._watch.changed()

    def _follow(self, instances: Mapping[str, Instance]) -> None:
        places = {place_of(instance): instance for instance in instances.values()}
        for place in places.keys() - self._targets.keys():
            channel = open_channel(dial_address(places[place]), tls=self._tls)
            self._targets[place] = _Target(channel)
        for place in self._targets.keys() - places.keys():
            task = asyncio.ensure_future(self._targets.pop(place).channel.close(_GRACE_S))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        ranks = {
            place: (instance.suspect, instance.region != self._region)
            for place, instance in places.items()
        }
        best = min(ranks.values(), default=(True, True))
        chosen = [place for place in sorted(ranks) if ranks[place] == best]
        self._choices = [self._targets[place] for place in chosen]
        self.sole_address = chosen[0] if len(chosen) == 1 else None


class _Target:
    """One instance: its channel, its methods as made once, its calls in flight."""

    __slots__ = ("channel", "in_flight", "methods")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.in_flight = 0
        self.methods: dict[str, Any] = {}

    def done(self, call: object) -> None:
        self.in_flight -= 1


class _Method:
    """One rpc of a stub; picks the instance when called."""

    __slots__ = ("_kind", "_owner", "_spec")

    def __init__(self, owner: DiscoveredChannel, kind: str, spec: tuple[str, Any, Any]) -> None:
        self._owner, self._kind, self._spec = owner, kind, spec

    def __call__(self, *request: Any, **options: Any) -> Any:
        target = self._owner.pick()
        name = self._spec[0]
        method = target.methods.get(name)
        if method is None:
            method = target.methods[name] = getattr(target.channel, self._kind)(*self._spec)
        call = method(*request, **options)
        target.in_flight += 1
        call.add_done_callback(target.done)
        return call


def _refuse_stream(*args: Any, **kwargs: Any) -> Any:
    raise TypeError("a discovered channel carries no such call")
