"""The pool sees what discovery and the instances say, and stops believing those that fall silent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.scripted_inference import Script, ScriptedInference

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from farthing.clients.instances.breaker import FAILURES_TO_EJECT
from farthing.clients.instances.pool import InstancePool
from farthing.clients.instances.view import InstanceState, InstanceView
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import Registration, StaticRegistry
from farthing.kit.errors import Unavailable
from farthing.kit.telemetry.spans import TraceContext
from farthing.kit.testing import FakeClock, eventually, free_port, serve

ROOT = Path(__file__).parents[3]
READY, EJECTED = InstanceState.READY, InstanceState.EJECTED


@asynccontextmanager
async def pool_of(
    *registrations: Registration, clock: FakeClock | SystemClock | None = None
) -> AsyncIterator[tuple[InstancePool, StaticRegistry]]:
    clock = clock or SystemClock()
    registry = StaticRegistry(clock=clock)
    for registration in registrations:
        await registry.register(registration)
    pool = InstancePool(registry, clock=clock)
    pool.start()
    try:
        yield pool, registry
    finally:
        await pool.close()
        await registry.close()


@asynccontextmanager
async def engine(
    model: str = "small", servicer: ScriptedInference | None = None
) -> AsyncIterator[str]:
    """A scripted instance; yields its address."""
    servicer = servicer or ScriptedInference(model, Script())
    async with serve((add_InferenceServiceServicer_to_server, servicer)) as (_, address):
        yield address


def edge(address: str, name: str = "edge-1") -> Registration:
    return Registration(name, "infer-edge", address, "edge-site")


def cloud(address: str, name: str = "cloud-1") -> Registration:
    return Registration(name, "infer-cloud", address, "cloud-a")


def views(pool: InstancePool) -> dict[str, InstanceView]:
    return {view.instance_id: view for view in pool.view()}


async def until(pool: InstancePool, name: str, state: InstanceState) -> InstanceView:
    def there() -> InstanceView | None:
        view = views(pool).get(name)
        return view if view is not None and view.state is state else None

    view: InstanceView = await eventually(there, timeout_s=30, what=f"{name} {state.value}")
    return view


# -- following discovery ---------------------------------------------------------------------


async def test_instances_are_seen_as_they_describe_themselves() -> None:
    async with engine("small") as one, engine("large") as other:
        async with pool_of(edge(one), cloud(other)) as (pool, _):
            small = await until(pool, "edge-1", READY)
            large = await until(pool, "cloud-1", READY)
            await eventually(lambda: views(pool)["edge-1"].rtt_us > 0, what="a round trip")
    assert (small.tier, small.region, small.address) == ("edge", "edge-site", one)
    assert (large.tier, large.region, large.address) == ("cloud", "cloud-a", other)
    (model,) = small.models
    assert model.name == "small"
    assert model.context_length == 1024
    assert model.capabilities == {"chat", "logprobs"}
    assert model.qualities == {"": pytest.approx(0.9)}
    assert model.bytes_per_token == 3.0
    assert model.prefill_tokens_per_second == 10_000
    assert small.capacity_count == 8


async def test_what_a_report_does_not_change_is_not_made_anew() -> None:
    servicer = ScriptedInference("small", Script())
    async with engine(servicer=servicer) as address, pool_of(edge(address)) as (pool, _):
        before = await until(pool, "edge-1", READY)
        told = servicer.report_count
        await eventually(lambda: servicer.report_count >= told + 3, what="three more reports")
        same = views(pool)["edge-1"]
        assert same.models is before.models
        servicer.script = Script(us_per_token=500)
        await eventually(
            lambda: (
                views(pool)["edge-1"].models[0].decode_tokens_per_second == pytest.approx(2_000)
            ),
            what="the new speed",
        )
        assert views(pool)["edge-1"].models[0].capabilities == {"chat", "logprobs"}


async def test_an_instance_that_nobody_reached_yet_is_connecting() -> None:
    async with pool_of(edge(f"127.0.0.1:{free_port()}")) as (pool, _):
        (view,) = pool.view()
        assert view.state is InstanceState.CONNECTING
        assert view.models == ()
        assert list(pool.list_models()) == []


async def test_instances_join_and_leave_with_discovery() -> None:
    async with engine() as one, engine() as other, pool_of() as (pool, registry):
        assert pool.view() == ()
        await registry.register(edge(one, "a"))
        await registry.register(edge(other, "b"))
        await registry.register(cloud(other, "c"))
        for name in "abc":
            await until(pool, name, READY)
        await registry.deregister("b")
        assert views(pool).keys() == {"a", "c"}
        assert len(list(pool.list_models())) == 2


async def test_an_instance_that_moved_is_followed_to_its_new_address() -> None:
    async with engine("before") as one, engine("after") as other:
        async with pool_of(edge(one)) as (pool, registry):
            assert (await until(pool, "edge-1", READY)).models[0].name == "before"
            await registry.register(edge(other))
            assert views(pool)["edge-1"].address == other
            assert (await until(pool, "edge-1", READY)).models[0].name == "after"


async def test_an_instance_that_turns_up_in_another_region_is_seen_there() -> None:
    async with engine() as address, pool_of(edge(address)) as (pool, registry):
        await until(pool, "edge-1", READY)
        await registry.register(Registration("edge-1", "infer-edge", address, "edge-other"))
        assert (await until(pool, "edge-1", READY)).region == "edge-other"


async def test_a_closed_pool_follows_nothing_any_more() -> None:
    async with engine() as address, pool_of() as (pool, registry):
        await pool.close()
        await registry.register(edge(address))
        assert pool.view() == ()


async def test_whoever_waits_for_an_instance_goes_on_when_one_is_ready() -> None:
    async with engine() as address, pool_of() as (pool, registry):
        waiting = asyncio.ensure_future(pool.wait_ready())
        await registry.register(edge(f"127.0.0.1:{free_port()}", "dead"))
        await registry.register(edge(address, "alive"))
        await asyncio.wait_for(waiting, 10)
        assert views(pool)["alive"].state is READY


async def test_the_age_of_the_view_is_discoverys() -> None:
    clock = FakeClock()
    async with pool_of(clock=clock) as (pool, _):
        assert pool.age_ms() == 0
        clock.advance(2)
        assert pool.age_ms() == 2000
    assert InstancePool(StaticRegistry(clock=clock), clock=clock).age_ms() == -1


# -- calls -----------------------------------------------------------------------------------


async def test_calls_in_flight_are_counted_while_they_last() -> None:
    async with engine() as address, pool_of(edge(address)) as (pool, _):
        with pool.lease("edge-1"), pool.lease("edge-1"):
            assert pool.in_flight == {"edge-1": 2}
        with pytest.raises(RuntimeError), pool.lease("edge-1"):
            raise RuntimeError
        assert pool.in_flight == {}


async def test_an_instance_that_is_gone_cannot_be_leased() -> None:
    async with pool_of() as (pool, _):
        with pytest.raises(Unavailable) as caught, pool.lease("edge-1"):
            raise AssertionError
        assert caught.value.reason == "INSTANCE_GONE"


async def test_calls_in_flight_end_when_discovery_drops_their_instance() -> None:
    script = Script(gate=asyncio.Event())
    servicer = ScriptedInference("small", script)
    async with engine(servicer=servicer) as address, pool_of(edge(address)) as (pool, registry):
        await until(pool, "edge-1", READY)
        with pool.lease("edge-1") as lease:
            request, nowhere = (
                pb.GenerateRequest(model="small"),
                TraceContext("1" * 32, "2" * 16, False),
            )
            call = lease.generate(request, timeout_s=30, trace=nowhere)
            await anext(call)
            await registry.deregister("edge-1")
            assert pool.view() == ()
            assert script.gate is not None
            script.gate.set()
            events = [event async for event in call]
            lease.succeeded()
        assert events[-1].HasField("completion")


async def test_failures_of_its_own_eject_a_single_instance_which_is_tried_again() -> None:
    clock = FakeClock()
    async with engine() as address, pool_of(edge(address), clock=clock) as (pool, _):
        await until(pool, "edge-1", READY)
        with pool.lease("edge-1") as lease:
            for _ in range(FAILURES_TO_EJECT):
                assert views(pool)["edge-1"].state is READY
                lease.failed()
            assert views(pool)["edge-1"].state is EJECTED
            assert list(pool.list_models()) == []
            clock.advance(1.0)
            assert views(pool)["edge-1"].state is READY
            lease.failed()
            assert views(pool)["edge-1"].state is EJECTED
            clock.advance(2.0)
            lease.succeeded()
            lease.failed()
            assert views(pool)["edge-1"].state is READY


# -- instances that misbehave ----------------------------------------------------------------


class Boastful(ScriptedInference):
    """Reports figures that no machine can have."""

    async def WatchLoad(
        self, request: pb.WatchLoadRequest, context: Any
    ) -> AsyncGenerator[pb.WatchLoadResponse]:
        bad = float("nan")
        yield pb.WatchLoadResponse(
            load=pb.LoadReport(
                capacity_request_count=-3,
                running_request_count=-1,
                queued_request_count=-1,
                speeds=[
                    pb.ModelSpeed(
                        model=self.info.name,
                        prefill_tokens_per_second=bad,
                        decode_tokens_per_second=-5.0,
                    )
                ],
            )
        )
        await asyncio.Event().wait()


async def test_figures_that_cannot_be_are_not_believed() -> None:
    servicer = Boastful("small", Script(), {"": float("nan"), "math": 7.0, "chat": 0.5})
    servicer.info.bytes_per_token = float("-inf")
    servicer.info.context_length = -1
    async with engine(servicer=servicer) as address, pool_of(edge(address)) as (pool, _):
        view = await until(pool, "edge-1", READY)
    (model,) = view.models
    assert model.qualities == {"chat": 0.5}
    assert model.bytes_per_token == 0.0
    assert model.context_length == 0
    assert (model.prefill_tokens_per_second, model.decode_tokens_per_second) == (0.0, 0.0)
    assert (view.running_count, view.queued_count, view.capacity_count) == (0, 0, 1)


@contextmanager
def process_at(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real engine process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.instant_inference"],
        env={
            **clean,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "FARTHING_HOST": "127.0.0.1",
            "FARTHING_PORT": str(port),
        },
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.e2e
async def test_a_killed_process_is_ejected_at_once_and_back_after_its_restart() -> None:
    port = free_port()
    async with pool_of(edge(f"127.0.0.1:{port}")) as (pool, _):
        with process_at(port) as process:
            await until(pool, "edge-1", READY)
            process.kill()
            # By the broken connection, long before a report is overdue.
            await until(pool, "edge-1", EJECTED)
        with process_at(port):
            await until(pool, "edge-1", READY)


@pytest.mark.e2e
async def test_a_hung_process_is_ejected_and_back_when_it_goes_on() -> None:
    port = free_port()
    async with pool_of(edge(f"127.0.0.1:{port}")) as (pool, _):
        with process_at(port) as process:
            await until(pool, "edge-1", READY)
            process.send_signal(signal.SIGSTOP)
            try:
                # Its connection stays open: only the missing reports tell.
                await until(pool, "edge-1", EJECTED)
            finally:
                process.send_signal(signal.SIGCONT)
            await until(pool, "edge-1", READY)
