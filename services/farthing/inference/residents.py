"""Which stored models a service has loaded: one is loaded, swapped or unloaded on demand, within a memory limit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from farthing.inference.core.residency import Candidate, plan_residency
from farthing.inference.host import Check, ModelHost
from farthing.inference.process.child import Child
from farthing.inference.process.remote import RemoteEngine
from farthing.kit.errors import AlreadyExists, ResourceExhausted

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is proven to run here. `need_bytes` is what it will take in memory, by estimate.

    `release` lets the stored files go; they are kept from being removed until then.
    """

    name: str
    need_bytes: int
    spawn: Callable[[], Child]
    release: Callable[[], None]


Prepare = Callable[[str, str], Prepared]
"""A stored model's name or a path, and the name to serve it under ("" for its own) → checked and tested. Blocking."""

StartEngine = Callable[[Prepared], RemoteEngine]
"""An engine for the model, not started yet."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load came to. `unloaded` had to go for it."""

    engine: RemoteEngine
    unloaded: tuple[str, ...]


class Residents:
    """Changes what a host serves, one change at a time. Use from one event loop."""

    def __init__(
        self,
        host: ModelHost,
        prepare: Prepare,
        start_engine: StartEngine,
        *,
        limit_bytes: int,
        drain_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_bytes` 0 is no limit."""
        self._host, self._prepare, self._start_engine = host, prepare, start_engine
        self._limit_bytes, self._drain_s, self._now_s = limit_bytes, drain_s, now_s
        self._changing = asyncio.Lock()
        self._resident: dict[str, Prepared] = {}

    async def load(
        self, model: str, name: str = "", *, swap: bool = False, check: Check | None = None
    ) -> Loaded:
        """Serve a stored model, under `name` if one is given.

        With `swap` it takes the place of the model that is served under this name, when it has started and `check`
        agrees; until then, and if it does not, the old one serves. AlreadyExists without `swap`, ResourceExhausted when
        it does not fit though every idle model went, else what the model's checks, self-test, start or `check` raise.
        """
        async with self._changing:
            prepared = await asyncio.to_thread(self._prepare, model, name)
            try:
                return await self._load(prepared, swap, check)
            except BaseException:
                prepared.release()
                raise

    async def unload(self, name: str) -> None:
        """Serve the model no more: what has begun may end. NotFound."""
        async with self._changing:
            await self._unload(name)

    async def _load(self, prepared: Prepared, swap: bool, check: Check | None) -> Loaded:
        old = self._resident.get(prepared.name)
        if old is not None and not swap:
            raise AlreadyExists(
                f"model {prepared.name} is loaded already; swap it, or give the new one another name",
                reason="MODEL_LOADED",
                metadata={"model": prepared.name},
            )
        unloaded = self._make_room(prepared)
        for other in unloaded:
            await self._unload(other)
        engine = self._start_engine(prepared)
        if old is None:
            await self._host.add(engine, check)
        else:
            await self._host.swap(engine, check, drain_s=self._drain_s)
            old.release()
        self._resident[prepared.name] = prepared
        return Loaded(engine, unloaded)

    def _make_room(self, prepared: Prepared) -> tuple[str, ...]:
        """Who must go, the least recently used first."""
        uses = self._host.uses()
        candidates = [
            Candidate(
                name,
                one.need_bytes,
                uses[name].last_s,
                loaded=True,
                busy=uses[name].user_count > 0 or name == prepared.name,
            )
            for name, one in self._resident.items()
            if name in uses
        ]
        newcomer = f"{prepared.name} (new)"  # beside the one that it replaces, for a while
        candidates.append(Candidate(newcomer, prepared.need_bytes, self._now_s(), wanted=True))
        plan = plan_residency(candidates, self._limit_bytes or None)
        if plan.refused:
            missing = plan.refused[0].missing_bytes
            raise ResourceExhausted(
                f"{prepared.name} needs {prepared.need_bytes} bytes by estimate, {missing} more than can be freed:"
                " unload a model, or raise FARTHING_ENGINE_MODELS_BYTES",
                reason="MODELS_LIMIT",
                metadata={"model": prepared.name, "missing_bytes": str(missing)},
            )
        return plan.unload

    async def _unload(self, name: str) -> None:
        await self._host.remove(name, drain_s=self._drain_s)
        prepared = self._resident.pop(name, None)
        if prepared is not None:
            prepared.release()
        _log.info("model unloaded", extra={"model": name})
