"""Keeps one channel per inference instance and, from discovery, models, load and failures, the view of them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from farthing.api.inference.v1 import inference_pb2
from farthing.clients.instances.lease import Lease
from farthing.clients.instances.member import Member
from farthing.clients.instances.view import InstanceState, InstanceView
from farthing.kit.clock import Clock
from farthing.kit.discovery import Instance, Registry, ServiceWatch, Unsubscribe, place_of
from farthing.kit.errors import Unavailable
from farthing.kit.rpc.tls import TlsFiles

_log = logging.getLogger(__name__)

TIER_BY_SERVICE = {"infer-edge": "edge", "infer-cloud": "cloud"}


class InstancePool:
    """All inference instances of all regions. Use from one event loop."""

    def __init__(
        self, registry: Registry, *, clock: Clock, tls: TlsFiles | None = None
    ) -> None:
        self._registry, self._clock, self._tls = registry, clock, tls
        self._members: dict[str, Member] = {}
        self._watches: list[ServiceWatch] = []
        self._unsubscribes: list[Unsubscribe] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.in_flight: dict[str, int] = {}

    def start(self) -> None:
        """Follow discovery from now on."""
        for service, tier in TIER_BY_SERVICE.items():
            watch = self._registry.watch(service)
            self._watches.append(watch)

            def follow(instances: Mapping[str, Instance], tier: str = tier) -> None:
                self._follow(tier, instances)

            self._unsubscribes.append(watch.subscribe(follow))
            follow(watch.instances)

    async def close(self) -> None:
        """Stop following discovery and let go of all channels; first waits for calls on instances that were dropped."""
        while self._unsubscribes:
            self._unsubscribes.pop()()
        members, self._members = list(self._members.values()), {}
        await asyncio.gather(*(member.close() for member in members), *self._closing)

    def view(self) -> tuple[InstanceView, ...]:
        """Every instance at this moment."""
        now = self._clock.monotonic()
        return tuple(member.view(now) for member in self._members.values())

    def list_models(self) -> Iterator[tuple[str, inference_pb2.ModelInfo]]:
        """(region, model) of every instance that answers now."""
        now = self._clock.monotonic()
        for member in self._members.values():
            view = member.view(now)
            if view.state in (InstanceState.READY, InstanceState.SUSPECT):
                for info in member.models.values():
                    yield view.region, info

    def load_of(self, instance_id: str) -> inference_pb2.LoadReport:
        """The last load report of an instance; an empty one before the first."""
        member = self._members.get(instance_id)
        return member.load if member else inference_pb2.LoadReport()

    def age_ms(self) -> int:
        """Age of the newest good answer of discovery, -1 before any."""
        now = self._clock.monotonic()
        ages = [age for watch in self._watches if (age := watch.age_ms(now)) is not None]
        return min(ages, default=-1)

    def lease(self, instance_id: str) -> Lease:
        """Use an instance for one call; entering counts it as in flight. Unavailable when discovery dropped it."""
        member = self._members.get(instance_id)
        if member is None:
            raise Unavailable(f"instance {instance_id} is gone", reason="INSTANCE_GONE")
        return Lease(instance_id, member, self._clock, self.in_flight)

    async def wait_ready(self) -> None:
        """Return once at least one instance is ready."""
        while not any(view.state is InstanceState.READY for view in self.view()):
            changed: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(m.changed.wait()) for m in self._members.values()
            ]
            changed += [asyncio.ensure_future(watch.changed()) for watch in self._watches]
            try:
                await asyncio.wait(changed, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in changed:
                    task.cancel()
            for member in self._members.values():
                member.changed.clear()

    def _follow(self, tier: str, instances: Mapping[str, Instance]) -> None:
        for instance_id, instance in instances.items():
            member = self._members.get(instance_id)
            if member is not None and member.place == (place_of(instance), instance.region):
                member.suspect = instance.suspect
                continue
            if member is not None:
                self._drop(instance_id)
            self._members[instance_id] = Member(
                instance_id, tier, instance, clock=self._clock, tls=self._tls
            )
        gone = [
            instance_id
            for instance_id, member in self._members.items()
            if member.tier == tier and instance_id not in instances
        ]
        for instance_id in gone:
            self._drop(instance_id)

    def _drop(self, instance_id: str) -> None:
        _log.info("instance gone", extra={"instance_id": instance_id})
        task = asyncio.ensure_future(self._members.pop(instance_id).close(grace_s=60.0))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
