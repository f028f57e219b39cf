"""One server's life: not serving, serving, draining, gone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.support.probe_servicer import SERVICE, ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder
from farthing.kit.testing import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Long enough that a test which needs it would not end: nothing here waits for it.
LONG_DRAIN_MS = 60_000


def make_server(
    servicer: ProbeServicer | None = None, *, address: str = "127.0.0.1:0", drain_ms: int = 0
) -> RpcServer:
    server = RpcServer(
        address, recorder=NullRecorder(), metrics=Metrics("probe"), drain_ms=drain_ms
    )
    server.add(
        pb_grpc.add_InferenceServiceServicer_to_server,
        servicer if servicer is not None else ProbeServicer(),
    )
    return server


@asynccontextmanager
async def started(server: RpcServer) -> AsyncIterator[grpc.aio.Channel]:
    await server.start()
    channel = open_channel(f"127.0.0.1:{server.port}")
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop()


def health_of(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def check(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    response = await health_of(channel).Check(request, timeout=10)
    status: int = response.status
    return status


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_is_not_serving_until_told_and_again_when_told(service: str) -> None:
    server = make_server()
    async with started(server) as channel:
        assert await check(channel, service) == NOT_SERVING
        await server.set_serving()
        assert await check(channel, service) == SERVING
        await server.set_serving(False)
        assert await check(channel, service) == NOT_SERVING


async def test_health_of_a_service_that_is_not_here_is_not_found() -> None:
    async with started(make_server()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel, "farthing.api.quota.v1.QuotaService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_what_is_served() -> None:
    async with started(make_server()) as channel:
        reflect: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = reflect(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        response = await call.read()
        call.cancel()
        names = {service.name for service in response.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names


async def test_a_taken_port_is_an_error_that_says_so() -> None:
    first = make_server()
    async with started(first):
        second = make_server(address=f"127.0.0.1:{first.port}")
        with pytest.raises(
            Unavailable, match=r"the port is taken.*set FARTHING_PORT"
        ) as caught:
            await second.start()
        assert caught.value.reason == "PORT_TAKEN"
        assert caught.value.metadata == {"address": f"127.0.0.1:{first.port}"}


async def test_a_port_is_free_again_after_the_end() -> None:
    first = make_server()
    async with started(first):
        pass
    second = make_server(address=f"127.0.0.1:{first.port}")
    async with started(second) as channel:
        await channel.channel_ready()


async def test_a_drain_lets_an_open_call_finish_and_takes_no_new_one() -> None:
    entered, finish = asyncio.Event(), asyncio.Event()

    async def slow() -> pb.ListModelsResponse:
        entered.set()
        await finish.wait()
        return pb.ListModelsResponse(models=[pb.ModelInfo(name="done")])

    server = make_server(ProbeServicer(slow), drain_ms=LONG_DRAIN_MS)
    async with started(server) as channel:
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        await server.set_serving()
        call = stub.ListModels(pb.ListModelsRequest(), timeout=30)
        await asyncio.wait_for(entered.wait(), 10)
        stopping = asyncio.ensure_future(server.stop())

        async def refused() -> bool:
            async with open_channel(f"127.0.0.1:{server.port}") as fresh:
                try:
                    await check(fresh)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAVAILABLE
                return False

        await eventually(refused, what="new calls refused")
        assert not stopping.done()
        finish.set()
        assert (await call).models[0].name == "done"
        await asyncio.wait_for(stopping, 10)


async def test_a_drain_cancels_what_does_not_finish_in_time() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def endless() -> pb.ListModelsResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    server = make_server(ProbeServicer(endless), drain_ms=1)
    async with started(server) as channel:
        stub: Any = pb_grpc.InferenceServiceStub(channel)
        call = stub.ListModels(pb.ListModelsRequest(), timeout=30)
        await asyncio.wait_for(entered.wait(), 10)
        await server.stop()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
        )
        await eventually(cancelled.is_set)


async def test_somebody_who_watches_health_sees_the_end_and_does_not_hold_it_up() -> None:
    server = make_server(drain_ms=LONG_DRAIN_MS)
    async with started(server) as channel:
        await server.set_serving()
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.ensure_future(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        await asyncio.wait_for(stopping, 10)


async def test_run_registers_while_serving_and_withdraws_before_it_drains() -> None:
    server = make_server()
    heard: list[tuple[str, int]] = []

    async def health() -> int:
        async with open_channel(f"127.0.0.1:{server.port}") as channel:
            return await check(channel)

    async def ready() -> None:
        heard.append(("ready", await health()))

    async def stopping() -> None:
        heard.append(("stopping", await health()))

    running = asyncio.ensure_future(server.run(on_ready=ready, on_stopping=stopping))
    await eventually(lambda: heard or running.done(), what="the server runs")
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 10)
    assert [name for name, _ in heard] == ["ready", "stopping"]
    assert heard[1] == ("stopping", NOT_SERVING)


async def test_run_ends_the_server_also_when_registering_fails() -> None:
    server = make_server()

    async def refuse() -> None:
        raise Unavailable("no", reason="NO")

    with pytest.raises(Unavailable):
        await server.run(on_ready=refuse)
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_stream_is_refused_when_it_is_added() -> None:
    def register(servicer: object, server: Any) -> None:
        handler: Any = grpc.stream_unary_rpc_method_handler(lambda requests, context: b"")
        server.add_registered_method_handlers("test.Service", {"Collect": handler})

    server = RpcServer("127.0.0.1:0", recorder=NullRecorder(), metrics=Metrics("probe"))
    with pytest.raises(TypeError, match=r"test\.Service/Collect"):
        server.add(register, object())
