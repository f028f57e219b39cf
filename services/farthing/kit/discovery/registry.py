"""What discovery is about: instances, registrations, and the seam that every registry fills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

CheckKind = Literal["grpc", "http", "ttl"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of a service, as discovery knows it."""

    id: str
    """Unique over all regions."""
    service: str
    address: str
    """host:port."""
    region: str
    zone: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    """Static facts only; load travels over gRPC."""
    suspect: bool = False
    """True while its absence or illness is announced but not yet believed: use it last."""


@dataclass(frozen=True, slots=True)
class Registration:
    """An instance's wish to be found. Register after its port listens."""

    id: str
    service: str
    address: str
    region: str
    zone: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    check: CheckKind = "grpc"
    """grpc: grpc.health.v1 on `address`. http: GET `http_check_url`. ttl: our heartbeat, where no agent can call."""
    http_check_url: str = ""
    check_tls: bool = False
    """True when the gRPC check has to speak TLS."""

    def as_instance(self) -> Instance:
        """The instance that others will see."""
        return Instance(
            id=self.id,
            service=self.service,
            address=self.address,
            region=self.region,
            zone=self.zone,
            meta=MappingProxyType(dict(self.meta)),
        )


Instances = Mapping[str, Instance]
Unsubscribe = Callable[[], None]


class ServiceWatch:
    """The living, last-known-good view of one service over all regions. Used on one event loop only."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._instances: Instances = MappingProxyType({})
        self._confirmed_s: float | None = None
        self._subscribers: list[Callable[[Instances], None]] = []
        self._changed = asyncio.Event()
        self._ready = asyncio.Event()

    @property
    def instances(self) -> Instances:
        """The view, by instance id. Never emptied by an error."""
        return self._instances

    def age_ms(self, now_s: float) -> int | None:
        """Milliseconds since discovery last confirmed the view; `now_s` is monotonic. None before any answer."""
        if self._confirmed_s is None:
            return None
        return max(0, round((now_s - self._confirmed_s) * 1000))

    async def ready(self) -> None:
        """Return once there is a first answer, fresh or remembered."""
        await self._ready.wait()

    async def changed(self) -> None:
        """Return at the next change of the view."""
        await self._changed.wait()

    def subscribe(self, callback: Callable[[Instances], None]) -> Unsubscribe:
        """Call back on every change, with the whole view. The callback must not block. Ending it twice is fine."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def publish(self, instances: Instances, confirmed_s: float | None) -> None:
        """For registries: replace the view; `confirmed_s` is the monotonic time of the good answer, None if unknown."""
        if confirmed_s is not None:
            self._confirmed_s = confirmed_s
        changed = dict(instances) != dict(self._instances)
        if changed:
            self._instances = MappingProxyType(dict(instances))
        self._ready.set()
        if changed:
            self._changed.set()
            self._changed = asyncio.Event()
            for callback in tuple(self._subscribers):
                callback(self._instances)


class Registry(Protocol):
    """Where services announce themselves and find each other."""

    async def register(self, registration: Registration) -> None:
        """Announce an instance, and keep it announced until `deregister` or `close`.

        Returns although the registry cannot be reached now: announcing goes on in the background.
        InvalidArgument when the registry refuses the registration itself.
        """
        ...

    async def deregister(self, instance_id: str) -> None:
        """Withdraw an instance. Unknown ids are fine; an unreachable registry is logged, not raised."""
        ...

    def watch(self, service: str) -> ServiceWatch:
        """The view of one service; the same object for the same name. Needs a running event loop."""
        ...

    async def close(self) -> None:
        """Withdraw what was registered and stop watching."""
        ...
