"""A request that fails leaves nothing behind that waits for the garbage collector, whichever way it came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from tests.support.garbage import collecting_garbage, kinds_of

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.inference.host import ModelHost
from farthing.inference.process.child import Child, start_child
from farthing.inference.process.remote import Patience, RemoteEngine
from farthing.inference.servicer import InferenceServicer
from farthing.kit.testing import serve

Ask = Callable[[Any, pb.GenerateRequest], Awaitable[None]]


def _spawn() -> Child:
    return start_child("tests.support.toy_backend", ["toy", "0"])


@pytest.fixture
async def stub() -> AsyncIterator[Any]:
    host = ModelHost()
    await host.add(RemoteEngine(_spawn, Patience(start_s=60)))
    register: Callable[[Any, Any], None] = pb_grpc.add_InferenceServiceServicer_to_server
    try:
        async with serve((register, InferenceServicer(host))) as (channel, _):
            yield pb_grpc.InferenceServiceStub(channel)
    finally:
        await host.close(0)


async def _generate(stub: Any, request: pb.GenerateRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in stub.Generate(request):
            pass


async def _complete(stub: Any, request: pb.GenerateRequest) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Complete(pb.CompleteRequest(request=request))


async def _relay(stub: Any, request: pb.GenerateRequest, *, whole: bool) -> None:
    call = stub.Relay()
    await call.write(
        pb.RelayRequest(starts=[pb.RelayStart(id=1, request=request, whole=whole)])
    )
    response = await call.read()
    assert [event.WhichOneof("event") for event in response.events] == ["failure"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def _relay_stream(stub: Any, request: pb.GenerateRequest) -> None:
    await _relay(stub, request, whole=False)


async def _relay_whole(stub: Any, request: pb.GenerateRequest) -> None:
    await _relay(stub, request, whole=True)


@pytest.mark.parametrize("candidate_count", [1, 3])
@pytest.mark.parametrize("ask", [_generate, _complete, _relay_stream, _relay_whole])
async def test_a_refused_request_is_freed_at_once(
    stub: Any, ask: Ask, candidate_count: int
) -> None:
    too_long = pb.GenerationInput(prompt="x" * 1_000, candidate_count=candidate_count)
    request = pb.GenerateRequest(request_id="r1", model="toy", input=too_long)
    await ask(stub, request)
    with collecting_garbage() as left:
        for _ in range(3):  # the server may not be done with the last when its caller is
            await ask(stub, request)
    assert kinds_of(left, within="farthing.") == set()
