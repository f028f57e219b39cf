"""A failed call leaves nothing behind that waits for the garbage collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from tests.support.garbage import collecting_garbage, kinds_of
from tests.support.probe_servicer import ProbeServicer

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1.inference_pb2_grpc import (
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from farthing.kit.errors import NotFound
from farthing.kit.testing import serve


async def _fail() -> pb.ListModelsResponse:
    raise NotFound("there is no such thing", reason="PROBE")


async def _fail_after_a_message() -> AsyncGenerator[pb.GenerateResponse]:
    yield pb.GenerateResponse()
    raise NotFound("there is no more", reason="PROBE")


async def _hang() -> pb.ListModelsResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _read(stub: Any) -> None:
    async for _ in stub.Generate(pb.GenerateRequest()):
        pass


@pytest.mark.parametrize("way", ["unary", "stream", "out of time"])
async def test_a_failed_call_is_freed_at_once(way: str) -> None:
    servicer = ProbeServicer(_hang if way == "out of time" else _fail, _fail_after_a_message)
    async with serve((add_InferenceServiceServicer_to_server, servicer)) as (channel, _):
        stub: Any = InferenceServiceStub(channel)

        async def call() -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                if way == "stream":
                    await _read(stub)
                else:
                    await stub.ListModels(pb.ListModelsRequest(), timeout=0.1)

        await call()
        with collecting_garbage() as left:
            for _ in range(3):  # the server may not be done with the last when its caller is
                await call()
        assert kinds_of(left, within="farthing.") == set()
        assert not any(isinstance(one, grpc.aio.AbortError) for one in left)
