"""The registry on Consul: one datacenter per region, all of them merged into one view."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.kit.clock import Clock
from farthing.kit.discovery.background import BackgroundTasks
from farthing.kit.discovery.consul import ConsulClient, ConsulRefused
from farthing.kit.discovery.consul_keeper import RegistrationKeeper, encode_registration
from farthing.kit.discovery.consul_watcher import ServiceWatcher
from farthing.kit.discovery.registry import Registration, ServiceWatch
from farthing.kit.discovery.saved_state import (
    decode_instance,
    encode_instance,
    read_json,
    write_json,
)
from farthing.kit.discovery.view import RegionView, ViewRules, retry_after_s
from farthing.kit.errors import FarthingError, Unavailable

_log = logging.getLogger(__name__)

# Consul offers no blocking read of its datacenters.
_DATACENTERS_EVERY_S = 2.0
# A region cut off leaves Consul's list; only a long absence means that it is gone.
_FORGET_REGION_AFTER_S = 24 * 3600.0
_SAVE_DELAY_S = 0.2


class ConsulRegistry:
    """See Registry. `state_file` remembers views over restarts; None remembers nothing."""

    def __init__(
        self,
        client: ConsulClient,
        *,
        clock: Clock,
        state_file: Path | None = None,
        rules: ViewRules | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._clock = clock
        self._state_file = state_file
        self._rules = rules or ViewRules()
        self._jitter = jitter
        self._tasks = BackgroundTasks()
        self._keepers: dict[str, tuple[RegistrationKeeper, asyncio.Task[None]]] = {}
        self._watchers: dict[str, ServiceWatcher] = {}
        self._regions_listed_s: dict[str, float] = {}
        self._remembered: dict[str, Any] | None = None
        self._unsaved = asyncio.Event()

    async def register(self, registration: Registration) -> None:
        """See Registry."""
        encode_registration(registration, failures_field=False)  # refuses a bad address now
        await self._drop_keeper(registration.id)
        keeper = RegistrationKeeper(self._client, registration, jitter=self._jitter)
        try:
            await keeper.announce()
        except (Unavailable, ConsulRefused) as error:
            _log.warning("%s is not registered yet: %s", registration.id, error)
        task = self._tasks.start(keeper.keep(), name=f"keep {registration.id} registered")
        self._keepers[registration.id] = (keeper, task)

    async def deregister(self, instance_id: str) -> None:
        """See Registry."""
        keeper = await self._drop_keeper(instance_id)
        if keeper is not None:
            await keeper.withdraw()

    def watch(self, service: str) -> ServiceWatch:
        """See Registry."""
        if service not in self._watchers:
            if not self._watchers:
                self._tasks.start(self._follow_datacenters(), name="list datacenters")
                self._tasks.start(self._save_changes(), name="save views")
            watcher = ServiceWatcher(
                self._client,
                service,
                clock=self._clock,
                rules=self._rules,
                jitter=self._jitter,
                on_change=self._unsaved.set,
            )
            self._watchers[service] = watcher
            self._recall(service, watcher)
            for region in self._regions_listed_s:
                watcher.follow(region, self._tasks)
        return self._watchers[service].watch

    async def close(self) -> None:
        """See Registry."""
        for instance_id in tuple(self._keepers):
            await self.deregister(instance_id)
        await self._tasks.close()
        if self._unsaved.is_set():
            await self._save()
        await self._client.close()

    async def _drop_keeper(self, instance_id: str) -> RegistrationKeeper | None:
        kept = self._keepers.pop(instance_id, None)
        if kept is None:
            return None
        keeper, task = kept
        await self._tasks.cancel(task)
        return keeper

    async def _follow_datacenters(self) -> None:
        errors = 0
        while True:
            try:
                answer = await self._client.get("/v1/catalog/datacenters")
            except FarthingError as error:
                errors += 1
                if errors == 1:
                    _log.warning("datacenters cannot be listed: %s", error)
                await asyncio.sleep(retry_after_s(errors, self._jitter()))
                continue
            errors = 0
            now_s = self._clock.monotonic()
            for region in answer.body or ():
                self._regions_listed_s[region] = now_s
            await self._forget_gone_regions(now_s)
            for watcher in self._watchers.values():
                for region in self._regions_listed_s:
                    watcher.follow(region, self._tasks)
            await asyncio.sleep(_DATACENTERS_EVERY_S)

    async def _forget_gone_regions(self, now_s: float) -> None:
        for region, listed_s in tuple(self._regions_listed_s.items()):
            if now_s - listed_s > _FORGET_REGION_AFTER_S:
                _log.warning("region %s left Consul a day ago; forgetting it", region)
                del self._regions_listed_s[region]
                for watcher in self._watchers.values():
                    await watcher.forget(region, self._tasks)

    def _recall(self, service: str, watcher: ServiceWatcher) -> None:
        if self._state_file is None:
            return
        if self._remembered is None:
            content = read_json(self._state_file)
            self._remembered = content if isinstance(content, dict) else {}
        now_s, now_unix_s = self._clock.monotonic(), self._clock.time_ns() / 1e9
        for region, saved in dict(self._remembered.get(service, {})).items():
            try:
                held = [decode_instance(item) for item in saved["instances"]]
                age_s = max(0.0, now_unix_s - float(saved["confirmed_unix_s"]))
            except (KeyError, TypeError, ValueError):
                _log.warning(
                    "the remembered view of %s in %s is damaged and is not used",
                    service,
                    region,
                )
                continue
            watcher.remember(
                region,
                RegionView(held={item.id: item for item in held}, confirmed_s=now_s - age_s),
            )
            self._regions_listed_s.setdefault(region, now_s)

    async def _save_changes(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(_SAVE_DELAY_S)  # one write for a burst of changes
            await self._save()

    async def _save(self) -> None:
        self._unsaved.clear()
        if self._state_file is None:
            return
        # Services remembered but not watched by this process keep their entry.
        content = {**(self._remembered or {})}
        offset_s = self._clock.time_ns() / 1e9 - self._clock.monotonic()
        for service, watcher in self._watchers.items():
            content[service] = {
                region: {
                    "confirmed_unix_s": round((view.confirmed_s or 0.0) + offset_s, 3),
                    "instances": [encode_instance(item) for item in view.held.values()],
                }
                for region, view in watcher.views.items()
            }
        try:
            await asyncio.to_thread(write_json, self._state_file, content)
        except OSError as error:
            _log.warning("the view cannot be remembered in %s: %s", self._state_file, error)
