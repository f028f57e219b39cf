"""The registry of tests and of sites without Consul: a JSON file, read again when it changes."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

from farthing.kit.clock import Clock
from farthing.kit.discovery.background import BackgroundTasks
from farthing.kit.discovery.registry import Instance, Registration, ServiceWatch
from farthing.kit.discovery.saved_state import decode_instance
from farthing.kit.errors import InvalidArgument

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class StaticRegistry:
    """See Registry. What this process registers is added to the file's instances, for this process alone.

    `file` holds {"instances": [{"id", "service", "address", "region", "zone"?, "meta"?}, …]}; without one there
    is only what is registered here.
    """

    def __init__(self, file: Path | None = None, *, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._own: dict[str, Instance] = {}
        self._listed: dict[str, Instance] = {}
        self._stamp: tuple[int, int] | None = None
        self._watches: dict[str, ServiceWatch] = {}
        self._tasks = BackgroundTasks()
        if file is not None:
            self._listed = parse_registry(_read(file), str(file))
            self._stamp = _stamp(file)

    async def register(self, registration: Registration) -> None:
        """See Registry."""
        host, _, port = registration.address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidArgument(
                f"address {registration.address!r} is not host:port",
                field="registration.address",
            )
        self._own[registration.id] = registration.as_instance()
        self._publish()

    async def deregister(self, instance_id: str) -> None:
        """See Registry."""
        if self._own.pop(instance_id, None) is not None:
            self._publish()

    def watch(self, service: str) -> ServiceWatch:
        """See Registry."""
        if service not in self._watches:
            if not self._watches and self._file is not None:
                self._tasks.start(self._reload(self._file), name="reload registry file")
            self._watches[service] = ServiceWatch(service)
            self._publish()
        return self._watches[service]

    async def close(self) -> None:
        """See Registry."""
        await self._tasks.close()
        self._own.clear()
        self._publish()

    def _publish(self) -> None:
        now_s = self._clock.monotonic()
        merged = {**self._listed, **self._own}
        for service, watch in self._watches.items():
            watch.publish(
                {key: item for key, item in merged.items() if item.service == service}, now_s
            )

    async def _reload(self, file: Path) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            stamp = _stamp(file)
            if stamp == self._stamp:
                if stamp is not None:
                    self._publish()  # looked and found nothing new: the view is confirmed
                continue
            self._stamp = stamp
            try:
                self._listed = parse_registry(_read(file), str(file))
            except InvalidArgument as error:
                _log.warning("keeping the last registry: %s", error)
                continue
            self._publish()


def parse_registry(text: str, name: str) -> dict[str, Instance]:
    """The instances of a registry file, by id. InvalidArgument says what is wrong in file `name`."""
    try:
        content: Any = json.loads(text)
        items = content["instances"]
        instances = [decode_instance(item) for item in items]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"{name} is not a registry: {type(error).__name__} {error}; write"
            ' {"instances": [{"id", "service", "address", "region"}, …]}',
            field="registry_file",
        ) from error
    by_id = {item.id: item for item in instances}
    if len(by_id) != len(instances):
        raise InvalidArgument(f"{name} holds an id twice; make ids unique", field="id")
    return by_id


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(
            f"registry file {file} cannot be read: {error.strerror}; set FARTHING_REGISTRY_FILE",
            field="registry_file",
        ) from error


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
