"""The models of one service: each in an engine of its own, added, swapped and taken away under traffic."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.inference.canary import Check
from farthing.inference.engine import Engine
from farthing.kit.errors import AlreadyExists, NotFound

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Use:
    """How a model is used: requests under way, and when the last one came (seconds of the host's clock)."""

    user_count: int
    last_s: float


@dataclass(eq=False, slots=True)
class _Served:
    engine: Engine
    last_used_s: float
    user_count: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)


class ModelHost:
    """Gives requests their engines. Use from one event loop."""

    def __init__(
        self,
        now_s: Callable[[], float] = time.monotonic,
        is_stored: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """`is_stored` says of a name that is not served whether it could be loaded here."""
        self._now_s, self._is_stored = now_s, is_stored
        self._served: dict[str, _Served] = {}
        self._models_version = 0
        self._version = 0
        self._changed = asyncio.Event()
        self._followers: dict[Engine, asyncio.Task[None]] = {}

    async def add(self, engine: Engine, check: Check | None = None) -> None:
        """Start an engine and serve its model by its name, when `check` agrees.

        AlreadyExists; what the engine's start and `check` raise.
        """
        await engine.start()
        name = engine.info.name
        try:
            if name in self._served:
                raise AlreadyExists(
                    f"model {name} is loaded already; swap it",
                    reason="MODEL_LOADED",
                    metadata={"model": name},
                )
            if check is not None:
                await check(engine)
        except BaseException:
            await engine.close(0)
            raise
        self._put(name, engine)

    async def swap(self, engine: Engine, check: Check | None, *, drain_s: float) -> None:
        """Put a new engine in the place of the one that serves the model of the same name, when `check` agrees.

        Requests that have begun end with the old one, new ones go to the new one, and no request is refused. When the
        new one does not start or `check` raises, it goes away, the old one stays, and the error is raised.
        """
        await engine.start()
        name = engine.info.name
        try:
            old = self._require(name)
            if check is not None:
                await check(engine)
        except BaseException:
            await engine.close(0)
            raise
        self._put(name, engine)
        _log.info("model swapped", extra={"model": name, "digest": engine.info.digest})
        await self._retire(old, drain_s)

    async def remove(self, name: str, *, drain_s: float) -> None:
        """Serve a model no more; what has begun gets `drain_s` to end. NotFound."""
        served = self._require(name)
        del self._served[name]
        self._models_version += 1
        self._bump()
        await self._retire(served, drain_s)

    async def close(self, drain_s: float) -> None:
        """Serve nothing more."""
        served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(self._retire(one, drain_s) for one in served))

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Engine]:
        """The engine that serves the model now; it stays until the block ends, whatever replaces it. NotFound."""
        served = self._require(name)
        served.unused.clear()
        served.user_count += 1
        served.last_used_s = self._now_s()
        try:
            yield served.engine
        finally:
            served.user_count -= 1
            if not served.user_count:
                served.unused.set()

    def models(self) -> list[pb.ModelInfo]:
        """What is served, in order of name."""
        return [self._served[name].engine.info for name in sorted(self._served)]

    def engines(self) -> list[Engine]:
        """Those that serve now, in order of their models' names."""
        return [self._served[name].engine for name in sorted(self._served)]

    def uses(self) -> dict[str, Use]:
        """By model: how many requests it has, and when the last one came."""
        return {
            name: Use(one.user_count, one.last_used_s) for name, one in self._served.items()
        }

    def load(self) -> tuple[int, pb.LoadReport]:
        """All engines together, and a version that is another whenever something has changed."""
        loads = [one.engine.load()[1] for one in self._served.values()]
        report = loads[0] if len(loads) == 1 else _join(loads)
        report.models_version = self._models_version
        return self._version, report

    async def load_changed(self, version: int) -> None:
        """Return when the load's version is another than this one."""
        while self._version == version:
            await self._changed.wait()

    def _require(self, name: str) -> _Served:
        served = self._served.get(name)
        if served is None:
            known = ", ".join(sorted(self._served)) or "none"
            if self._is_stored(name):
                raise NotFound(
                    f"Model {name} is stored here and not loaded; `farthing models load` loads it. Loaded: {known}.",
                    reason="MODEL_NOT_LOADED",
                    metadata={"model": name, "served": known},
                )
            raise NotFound(
                f"Model {name} is not loaded here; loaded: {known}.",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "served": known},
            )
        return served

    def _put(self, name: str, engine: Engine) -> None:
        self._served[name] = _Served(engine, self._now_s())
        self._models_version += 1
        self._followers[engine] = asyncio.ensure_future(self._follow(engine))
        self._bump()

    async def _retire(self, served: _Served, drain_s: float) -> None:
        try:
            if served.user_count:
                await asyncio.wait_for(served.unused.wait(), drain_s)
        except TimeoutError:
            _log.warning("requests were still under way when their model was taken away")
        finally:
            follower = self._followers.pop(served.engine, None)
            if follower is not None:
                follower.cancel()
            await served.engine.close(0)

    async def _follow(self, engine: Engine) -> None:
        while True:
            version, _ = engine.load()
            await engine.load_changed(version)
            self._bump()

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def _join(loads: list[pb.LoadReport]) -> pb.LoadReport:
    """One report of several engines: sums, the oldest wait, ready when one of them is."""
    joined = pb.LoadReport(state=pb.ENGINE_STATE_STARTING)
    prompts = 0.0
    for load in loads:
        joined.running_request_count += load.running_request_count
        joined.queued_request_count += load.queued_request_count
        joined.capacity_request_count += load.capacity_request_count
        joined.paused_request_count += load.paused_request_count
        joined.kv_token_count += load.kv_token_count
        joined.kv_token_capacity += load.kv_token_capacity
        joined.cached_token_count += load.cached_token_count
        joined.queue_age_ms = max(joined.queue_age_ms, load.queue_age_ms)
        joined.speeds.extend(load.speeds)
        prompts += load.prefix_hit_ratio
        if load.state != pb.ENGINE_STATE_STARTING:
            joined.state = pb.ENGINE_STATE_READY
    joined.prefix_hit_ratio = prompts / len(loads) if loads else 0.0
    return joined
