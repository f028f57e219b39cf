"""Watches one service in every Consul datacenter and turns the answers into one last-known-good view."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from farthing.kit.clock import Clock
from farthing.kit.discovery.background import BackgroundTasks
from farthing.kit.discovery.consul import Answer, ConsulClient
from farthing.kit.discovery.registry import Instance, ServiceWatch
from farthing.kit.discovery.view import (
    RegionView,
    ViewRules,
    apply_answer,
    merge_regions,
    newest_confirmation_s,
    next_index,
    recheck_after_s,
    retry_after_s,
)
from farthing.kit.errors import FarthingError

_log = logging.getLogger(__name__)

# A quiet view is confirmed this often; its age stays below it while all is well.
_WAIT_S = 10.0
# Unrelated registrations wake a watch on a service that does not exist yet.
_MIN_GAP_S = 0.05


class ServiceWatcher:
    """One blocking, stale read per datacenter, for ever; errors keep the view."""

    def __init__(
        self,
        client: ConsulClient,
        service: str,
        *,
        clock: Clock,
        rules: ViewRules,
        jitter: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self.watch = ServiceWatch(service)
        self._client = client
        self._service = service
        self._clock = clock
        self._rules = rules
        self._jitter = jitter
        self._on_change = on_change
        self._views: dict[str, RegionView] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}

    @property
    def views(self) -> Mapping[str, RegionView]:
        """By datacenter."""
        return self._views

    def remember(self, region: str, view: RegionView) -> None:
        """Start from an earlier process's view."""
        self._views[region] = view
        self._publish()

    def follow(self, region: str, tasks: BackgroundTasks) -> None:
        """Watch a datacenter from now on; nothing happens when it is watched already."""
        if region not in self._loops:
            self._loops[region] = tasks.start(
                self._watch_region(region), name=f"watch {self._service} in {region}"
            )

    async def forget(self, region: str, tasks: BackgroundTasks) -> None:
        """Stop watching a datacenter that is gone for good, and drop its instances."""
        if (loop := self._loops.pop(region, None)) is not None:
            await tasks.cancel(loop)
        if self._views.pop(region, None) is not None:
            self._publish()

    async def _watch_region(self, region: str) -> None:
        index = errors = 0
        while True:
            started_s = self._clock.monotonic()
            try:
                answer = await self._read(region, index, now_s=started_s)
                await self._apply(region, answer)
            except FarthingError as error:
                errors += 1
                # An index kept over an error would block for the whole wait although all is well again.
                index = 0
                if errors == 1:
                    _log.warning(
                        "%s in %s: keeping the last view: %s", self._service, region, error
                    )
                    await self._apply_remembered_by_agent(region)
                await asyncio.sleep(retry_after_s(errors, self._jitter()))
                continue
            if errors:
                _log.info("%s in %s: discovery answers again", self._service, region)
            errors = 0
            index = next_index(index, answer.index)
            gap_s = _MIN_GAP_S - (self._clock.monotonic() - started_s)
            if gap_s > 0:
                await asyncio.sleep(gap_s)

    async def _read(self, region: str, index: int, *, now_s: float) -> Answer:
        view = self._views.get(region, RegionView())
        recheck_s = recheck_after_s(view, now_s=now_s, rules=self._rules)
        wait_s = (
            _WAIT_S
            if recheck_s is None
            # Doubts about an answer that is not trusted last; the floor keeps their rechecks rare.
            else min(_WAIT_S, max(recheck_s, self._rules.hold_s / 5))
        )
        return await self._client.block(
            self._path, index=index, wait_s=wait_s, params={"dc": region, "stale": ""}
        )

    @property
    def _path(self) -> str:
        return f"/v1/health/service/{quote(self._service, safe='')}"

    async def _apply(self, region: str, answer: Answer) -> None:
        instances = decode_health(answer.body)
        view = self._views.get(region, RegionView())
        trusted = bool(instances) or not view.held or await self._sees_anything(region)
        after = apply_answer(
            view,
            instances,
            now_s=self._clock.monotonic(),
            rules=self._rules,
            trusted=trusted,
        )
        newly_doubted = after.doubted_since_s.keys() - view.doubted_since_s.keys()
        if newly_doubted:
            _log.warning(
                "%s in %s: %d of %d instances vanished at once; holding them as suspect%s",
                self._service,
                region,
                len(newly_doubted),
                len(view.held),
                "" if trusted else ", the Consul token may have lost its rights",
            )
        self._views[region] = after
        self._publish()

    async def _sees_anything(self, region: str) -> bool:
        """Whether the token sees Consul's own servers: without rights, Consul answers with empty lists and no error."""
        try:
            answer = await self._client.get(
                "/v1/health/service/consul", params={"dc": region, "stale": ""}
            )
        except FarthingError:
            return False
        return bool(answer.body)

    async def _apply_remembered_by_agent(self, region: str) -> None:
        """At a cold start without servers, what the agent still has in its cache beats nothing."""
        if self._views.get(region, RegionView()).held:
            return
        try:
            answer = await self._client.get(
                self._path, params={"dc": region, "cached": ""}, timeout_s=2.0
            )
            await self._apply(region, answer)
        except FarthingError as error:
            _log.debug("%s in %s: nothing cached: %s", self._service, region, error)

    def _publish(self) -> None:
        before = self.watch.instances
        self.watch.publish(
            merge_regions(self._views.items()), newest_confirmation_s(self._views.values())
        )
        if self.watch.instances is not before:
            self._on_change()


def decode_health(body: Any) -> dict[str, Instance]:
    """The instances of a health answer that are not critical; those with a warning are suspect."""
    instances: dict[str, Instance] = {}
    for entry in body or ():
        statuses = {check["Status"] for check in entry["Checks"]}
        if "critical" in statuses:
            continue
        service, node = entry["Service"], entry["Node"]
        meta = dict(service.get("Meta") or {})
        region = meta.pop("region", "") or node["Datacenter"]
        zone = meta.pop("zone", "")
        host = service["Address"] or node["Address"]
        instances[service["ID"]] = Instance(
            id=service["ID"],
            service=service["Service"],
            address=f"[{host}]:{service['Port']}"
            if ":" in host
            else f"{host}:{service['Port']}",
            region=region,
            zone=zone,
            meta=meta,
            suspect="warning" in statuses,
        )
    return instances
