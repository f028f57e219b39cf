"""Which stored models a service has loaded: one is loaded, swapped or unloaded on demand, within a memory limit."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from farthing.inference.canary import canary_check
from farthing.inference.core.card import Canary
from farthing.inference.core.residency import Candidate, plan_residency
from farthing.inference.host import ModelHost
from farthing.inference.process.child import Child
from farthing.inference.process.remote import RemoteEngine
from farthing.inference.store.contents import StoredModel
from farthing.kit.errors import AlreadyExists, FarthingError, ResourceExhausted

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is proven to run here. `need_bytes` is what it will take in memory, by estimate.

    `release` lets the stored files go; they are kept from being removed until then. `canaries` are its card's.
    """

    name: str
    need_bytes: int
    spawn: Callable[[], Child]
    release: Callable[[], None]
    canaries: tuple[Canary, ...] = ()


Find = Callable[[], StoredModel]
"""Finds a model and reads it through. Blocking."""

Prepare = Callable[[StoredModel, str], Prepared]
"""A model and the name to serve it under ("" for its own) → checked and tested. Blocking."""

StartEngine = Callable[[Prepared], RemoteEngine]
"""An engine for the model, not started yet."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A model to serve, under `name` if one is given, beside the others or (`swap`) in the place of that name's.

    `reference` is what administrators call it: a stored model's name, or a path. Of the canaries, the card's when
    there are none here, `least_ratio` must be answered exactly; with 0 nothing is asked.
    """

    reference: str
    find: Find
    name: str = ""
    swap: bool = False
    canaries: Sequence[Canary] = ()
    least_ratio: float = 1.0


Remember = Callable[[Mapping[str, str]], None]
"""Is told what is served after each change: by name, the model's reference. Blocking."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load came to. `unloaded` had to go for it."""

    engine: RemoteEngine
    unloaded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Resident:
    prepared: Prepared
    reference: str


class Residents:
    """Changes what a host serves, one change at a time. Use from one event loop.

    A change that has begun is carried through, though whoever asked for it goes away: half of one would leave engines
    that nobody ends.
    """

    def __init__(
        self,
        host: ModelHost,
        prepare: Prepare,
        make_engine: StartEngine,
        *,
        limit_bytes: int,
        drain_s: float,
        remember: Remember = lambda serving: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`limit_bytes` 0 is no limit; `drain_s` is how long requests may go on with a model that is taken away."""
        self._remember = remember
        self._host, self._prepare, self._make_engine = host, prepare, make_engine
        self._limit_bytes, self._drain_s, self._now_s = limit_bytes, drain_s, now_s
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._resident: dict[str, _Resident] = {}

    async def load(self, wish: Wish, *, lasting: bool = True) -> Loaded:
        """Serve a model once it has started and answered its canaries; a `lasting` change is remembered.

        Until then, and when it does not, requests go on as before; a model that was unloaded to make room comes back.
        AlreadyExists without `swap`, ResourceExhausted when it does not fit though every idle model went, else what the
        model's checks, self-test, start or canaries raise.
        """
        change = self._change if lasting else self._in_turn
        return await change(lambda: self._load(wish))

    async def restore(self, wishes: Sequence[Wish]) -> RemoteEngine | None:
        """Serve what was served before the service stopped, as far as that can be done; one of the engines.

        What cannot be served is logged. None when nothing could be.
        """
        return await self._in_turn(lambda: self._restore(wishes))

    async def unload(self, name: str) -> None:
        """Serve the model no more: what has begun may end. NotFound."""
        await self._change(lambda: self._unload(name))

    async def close(self) -> None:
        """Give up changes that are under way, and serve nothing more."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await self._host.close(0)

    async def _change(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        async def remembered() -> _T:
            result = await work()
            serving = {name: one.reference for name, one in sorted(self._resident.items())}
            await run_apart(lambda: self._remember(serving))
            return result

        return await self._in_turn(remembered)

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        async def in_turn() -> _T:
            async with self._changing:
                return await work()

        change = asyncio.ensure_future(in_turn())
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            change.add_done_callback(_tell_end)
            raise

    async def _restore(self, wishes: Sequence[Wish]) -> RemoteEngine | None:
        engine: RemoteEngine | None = None
        for wish in wishes:
            try:
                # Its canaries were answered when it was loaded, as many of them as its administrator wanted.
                engine = (await self._load(replace(wish, least_ratio=0.0))).engine
            except (FarthingError, OSError) as error:
                _log.error("%s is not served again: %s", wish.reference, error)
        return engine

    async def _load(self, wish: Wish) -> Loaded:
        stored = await run_apart(wish.find)
        name = wish.name or stored.name
        if name in self._resident and not wish.swap:
            raise AlreadyExists(
                f"model {name} is loaded already; swap it, or give the new one another name",
                reason="MODEL_LOADED",
                metadata={"model": name},
            )
        prepared = await run_apart(
            lambda: self._prepare(stored, wish.name), lambda late: late.release()
        )
        try:
            loaded = await self._put(prepared, wish)
        except BaseException:
            prepared.release()
            raise
        _log.info("model loaded", extra={"model": name, "digest": stored.digest})
        return loaded

    async def _put(self, prepared: Prepared, wish: Wish) -> Loaded:
        unloaded = self._make_room(prepared)
        gone = [await self._take_out(name) for name in unloaded]
        engine = self._make_engine(prepared)
        check = None
        if wish.least_ratio:
            check = canary_check(wish.canaries or prepared.canaries, wish.least_ratio)
        old = self._resident.get(prepared.name)
        try:
            if old is None:
                await self._host.add(engine, check)
            else:
                await self._host.swap(engine, check, drain_s=self._drain_s)
        except Exception:
            await self._put_back(gone)
            raise
        self._resident[prepared.name] = _Resident(prepared, wish.reference)
        for one in (*gone, *([old] if old else ())):
            one.prepared.release()
        return Loaded(engine, unloaded)

    async def _put_back(self, gone: Sequence[_Resident]) -> None:
        for one in gone:
            try:
                await self._host.add(self._make_engine(one.prepared))
            except Exception as error:
                _log.error("%s does not come back: %s", one.prepared.name, error)
                one.prepared.release()
            else:
                self._resident[one.prepared.name] = one

    def _make_room(self, prepared: Prepared) -> tuple[str, ...]:
        """Who must go, the least recently used first."""
        uses = self._host.uses()
        candidates = [
            Candidate(
                name,
                one.prepared.need_bytes,
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
        self._resident.pop(name).prepared.release()
        _log.info("model unloaded", extra={"model": name})

    async def _take_out(self, name: str) -> _Resident:
        await self._host.remove(name, drain_s=self._drain_s)
        _log.info("model unloaded to make room", extra={"model": name})
        return self._resident.pop(name)


def _tell_end(change: asyncio.Task[Any]) -> None:
    """How a change ended that nobody waits for any more."""
    if not change.cancelled() and (error := change.exception()) is not None:
        _log.warning("what is served has not changed: %s", error)


async def run_apart(work: Callable[[], _T], drop: Callable[[_T], None] | None = None) -> _T:
    """Blocking work in a thread that does not hold up the end of the process, as those of asyncio's pool do.

    What it brings when nobody waits any more goes to `drop`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def deliver(result: _T) -> None:
        if not done.cancelled():
            done.set_result(result)
        elif drop is not None:
            drop(result)

    def fail(error: BaseException) -> None:
        if not done.cancelled():
            done.set_exception(error)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            try:
                result = work()
            except Exception as error:
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, name="model-loader", daemon=True).start()
    return await done
