"""A channel to a service by name: own region first, the less busy of two, and always the instances of this moment."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from tests.support.probe_servicer import ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.clients.discovered_channel import DiscoveredChannel
from farthing.kit.discovery import Instance, ServiceWatch
from farthing.kit.errors import Unavailable
from farthing.kit.testing import FakeClock, eventually, free_port, serve

ASK = pb.ListModelsRequest()


class Site:
    """A watched service whose instances are real servers that answer with their names."""

    def __init__(self, stack: AsyncExitStack, channel: DiscoveredChannel, watch: ServiceWatch):
        self._stack, self._clock = stack, FakeClock()
        self.channel, self.watch = channel, watch
        self.stub: Any = pb_grpc.InferenceServiceStub(channel)
        self.gates: dict[str, asyncio.Event] = {}
        self.entered: Counter[str] = Counter()

    async def start(
        self, name: str, region: str = "here", *, suspect: bool = False
    ) -> Instance:
        """Start a server; it is not discovered yet."""

        async def answer() -> pb.ListModelsResponse:
            self.entered[name] += 1
            if name in self.gates:
                await self.gates[name].wait()
            return pb.ListModelsResponse(models=[pb.ModelInfo(name=name)])

        _, address = await self._stack.enter_async_context(
            serve((pb_grpc.add_InferenceServiceServicer_to_server, ProbeServicer(answer)))
        )
        return Instance(name, "quota", address, region, suspect=suspect)

    def discover(self, *instances: Instance) -> None:
        """Make exactly these known."""
        self.watch.publish(
            {instance.id: instance for instance in instances}, self._clock.monotonic()
        )

    async def ask(self) -> str:
        """Which instance answers."""
        response = await self.stub.ListModels(ASK, timeout=10)
        name: str = response.models[0].name
        return name

    async def ask_often(self) -> set[str]:
        """Which instances answer; a fair choice of two misses one with a chance of 2^-39."""
        return {await self.ask() for _ in range(40)}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        watch = ServiceWatch("quota")
        channel = await stack.enter_async_context(DiscoveredChannel(watch, region="here"))
        yield Site(stack, channel, watch)


async def test_before_anything_is_known_calls_are_refused_by_name(site: Site) -> None:
    with pytest.raises(Unavailable, match="no quota service is known") as caught:
        await site.ask()
    assert caught.value.reason == "SERVICE_UNKNOWN"
    assert caught.value.retry_after_ms > 0
    assert site.channel.get_state() is grpc.ChannelConnectivity.IDLE


async def test_an_instance_known_from_the_start_is_used(site: Site) -> None:
    site.discover(await site.start("a"))
    late = DiscoveredChannel(site.watch, region="here")
    stub: Any = pb_grpc.InferenceServiceStub(late)
    response = await stub.ListModels(ASK, timeout=10)
    assert response.models[0].name == "a"
    await late.close()


async def test_the_own_region_comes_first_and_others_only_without_it(site: Site) -> None:
    near, far = await site.start("near"), await site.start("far", "there")
    site.discover(far)
    assert await site.ask() == "far"
    site.discover(near, far)
    assert await site.ask_often() == {"near"}
    site.discover(far)
    assert await site.ask() == "far"


async def test_a_doubted_instance_is_the_last_resort(site: Site) -> None:
    doubted = await site.start("doubted", suspect=True)
    far = await site.start("far", "there")
    site.discover(doubted, far)
    assert await site.ask_often() == {"far"}
    site.discover(doubted)
    assert await site.ask() == "doubted"


async def test_all_equal_instances_get_their_share(site: Site) -> None:
    site.discover(*[await site.start(name) for name in "ab"])
    assert await site.ask_often() == {"a", "b"}


async def test_of_two_the_less_busy_one_is_asked(site: Site) -> None:
    site.gates["slow"] = asyncio.Event()
    slow, fast = await site.start("slow"), await site.start("fast")
    site.discover(slow)
    held = asyncio.ensure_future(site.ask())
    await eventually(lambda: site.entered["slow"] == 1)
    site.discover(slow, fast)
    assert await site.ask_often() == {"fast"}
    site.gates["slow"].set()
    assert await held == "slow"
    assert await site.ask_often() == {"slow", "fast"}


async def test_a_failed_call_frees_its_place_too(site: Site) -> None:
    site.gates["a"] = asyncio.Event()
    site.discover(await site.start("a"), await site.start("b"))
    calls = [site.stub.ListModels(ASK, timeout=10) for _ in range(20)]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    site.gates["a"].set()
    assert await site.ask_often() == {"a", "b"}


async def test_calls_in_flight_end_where_they_began_when_instances_change(site: Site) -> None:
    site.gates["old"] = asyncio.Event()
    old, new = await site.start("old"), await site.start("new")
    site.discover(old)
    held = asyncio.ensure_future(site.ask())
    await eventually(lambda: site.entered["old"] == 1)
    site.discover(new)
    assert await site.ask_often() == {"new"}
    site.gates["old"].set()
    assert await held == "old"


async def test_the_same_stub_follows_an_instance_to_another_address(site: Site) -> None:
    first, second = await site.start("first"), await site.start("second")
    site.discover(first)
    assert await site.ask() == "first"
    site.discover(Instance(first.id, "quota", second.address, "here"))
    assert await site.ask() == "second"


async def test_when_the_last_instance_leaves_calls_are_refused_until_one_is_back(
    site: Site,
) -> None:
    instance = await site.start("a")
    site.discover(instance)
    assert await site.ask() == "a"
    site.discover()
    with pytest.raises(Unavailable):
        await site.ask()
    site.discover(instance)
    assert await site.ask() == "a"


async def test_a_dead_instance_fails_the_call_and_says_so(site: Site) -> None:
    site.discover(Instance("dead", "quota", f"127.0.0.1:{free_port()}", "here"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.ask()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_waiting_for_the_channel_is_waiting_for_an_instance(site: Site) -> None:
    ready = asyncio.ensure_future(site.channel.channel_ready())
    changed = asyncio.ensure_future(
        site.channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
    )
    site.discover(await site.start("a"))
    await asyncio.wait_for(asyncio.gather(ready, changed), 10)
    assert site.channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_stream_goes_to_an_instance_of_this_moment(site: Site) -> None:
    with pytest.raises(Unavailable):
        site.stub.Generate(pb.GenerateRequest())
    site.discover(await site.start("a"))
    events = [event async for event in site.stub.Generate(pb.GenerateRequest(), timeout=10)]
    assert events == [pb.GenerateResponse()]


async def test_streams_to_a_single_answer_are_refused(site: Site) -> None:
    site.discover(await site.start("a"))
    with pytest.raises(TypeError, match="no such call"):
        site.channel.stream_unary("/any")()


async def test_the_sole_address_is_named_while_there_is_no_choice(site: Site) -> None:
    assert site.channel.sole_address is None
    near, far = await site.start("near"), await site.start("far", "there")
    site.discover(far)
    assert site.channel.sole_address == far.address
    site.discover(near, far)
    assert site.channel.sole_address == near.address
    site.discover(near, await site.start("second"))
    assert site.channel.sole_address is None


async def test_a_closed_channel_follows_nothing_any_more(site: Site) -> None:
    instance = await site.start("a")
    await site.channel.close()
    site.discover(instance)
    with pytest.raises(Unavailable):
        await site.ask()
