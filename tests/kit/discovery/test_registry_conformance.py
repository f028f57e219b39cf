"""What every registry promises, asked of each implementation."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from farthing.kit.clock import SystemClock
from farthing.kit.discovery.registry import Instances, Registration, Registry
from farthing.kit.errors import InvalidArgument

Until = Callable[[Callable[[], bool]], Coroutine[Any, Any, None]]


@pytest.fixture
def service() -> str:
    """A name no other test uses: the agent is shared."""
    return f"svc-{uuid.uuid4().hex[:8]}"


def registration(service: str, number: int = 1, **meta: str) -> Registration:
    return Registration(
        id=f"{service}-{number}",
        service=service,
        address=f"127.0.0.1:{20000 + number}",
        region="site",
        zone="z1",
        meta=meta,
        check="ttl",
    )


async def test_what_is_registered_is_seen_with_all_its_facts(
    registry: Registry, service: str, until: Until
) -> None:
    watch = registry.watch(service)
    await registry.register(registration(service, models="m1"))
    await until(lambda: len(watch.instances) == 1)
    instance = watch.instances[f"{service}-1"]
    assert instance.address == "127.0.0.1:20001"
    assert (instance.service, instance.region, instance.zone) == (service, "site", "z1")
    assert dict(instance.meta) == {"models": "m1"}
    assert not instance.suspect


async def test_a_watch_sees_only_its_own_service(
    registry: Registry, service: str, until: Until
) -> None:
    await registry.register(registration(service))
    await registry.register(registration(f"{service}-other", 2))
    watch = registry.watch(service)
    await until(lambda: bool(watch.instances))
    assert set(watch.instances) == {f"{service}-1"}


async def test_the_same_service_has_one_watch(registry: Registry, service: str) -> None:
    assert registry.watch(service) is registry.watch(service)


async def test_what_is_deregistered_leaves_the_view(
    registry: Registry, service: str, until: Until
) -> None:
    watch = registry.watch(service)
    for number in (1, 2, 3):
        await registry.register(registration(service, number))
    await until(lambda: len(watch.instances) == 3)
    await registry.deregister(f"{service}-2")
    await until(lambda: set(watch.instances) == {f"{service}-1", f"{service}-3"})


async def test_the_last_instance_leaves_too(
    registry: Registry, service: str, until: Until
) -> None:
    watch = registry.watch(service)
    await registry.register(registration(service))
    await until(lambda: len(watch.instances) == 1)
    await registry.deregister(f"{service}-1")
    await until(lambda: not watch.instances)


async def test_deregistering_an_unknown_id_is_fine(registry: Registry) -> None:
    await registry.deregister("nobody")


async def test_registering_again_replaces(
    registry: Registry, service: str, until: Until
) -> None:
    watch = registry.watch(service)
    await registry.register(registration(service, models="old"))
    await registry.register(registration(service, models="new"))
    await until(
        lambda: [dict(item.meta) for item in watch.instances.values()] == [{"models": "new"}]
    )


async def test_an_address_without_a_port_is_refused(registry: Registry, service: str) -> None:
    bad = Registration(id="x", service=service, address="127.0.0.1", region="site")
    with pytest.raises(InvalidArgument, match="host:port"):
        await registry.register(bad)


async def test_subscribers_and_waiters_hear_of_changes_until_they_leave(
    registry: Registry, service: str, until: Until
) -> None:
    watch = registry.watch(service)
    seen: list[Instances] = []
    unsubscribe = watch.subscribe(seen.append)
    waiter = asyncio.ensure_future(watch.changed())
    await asyncio.sleep(0)  # lets the waiter begin to wait
    await registry.register(registration(service))
    await until(lambda: bool(seen))
    await waiter
    assert set(seen[-1]) == {f"{service}-1"}
    unsubscribe()
    heard_count = len(seen)
    await registry.register(registration(service, 2))
    await until(lambda: len(watch.instances) == 2)
    assert len(seen) == heard_count


async def test_a_watch_becomes_ready_and_tells_its_age(
    registry: Registry, service: str
) -> None:
    watch = registry.watch(service)
    async with asyncio.timeout(10):
        await watch.ready()
    age_ms = watch.age_ms(SystemClock().monotonic())
    assert age_ms is not None
    assert age_ms >= 0
