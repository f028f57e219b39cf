"""Nobody writes to a node without an administrator's key; reading keeps to rates and places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.file_server import FileServer
from tests.support.model_nodes import (
    ADMIN,
    REGISTER,
    Recording,
    add_model,
    read,
    require_admin,
)

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore, Retrying, RetryRules
from farthing.inference.store.servicer import ModelsServicer, ServingLimits
from farthing.kit.errors import (
    AlreadyExists,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
)
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.testing import eventually, serve


@asynccontextmanager
async def admin_stub(store: ModelStore) -> AsyncIterator[tuple[Any, Recording]]:
    servicer = Recording(store)
    async with serve((REGISTER, servicer)) as (channel, _):
        yield pb_grpc.ModelsServiceStub(channel), servicer


async def test_nobody_writes_without_an_administrators_key(
    there: ModelStore, tmp_path: Path
) -> None:
    add_model(there, tmp_path)
    async with admin_stub(there) as (stub, _):
        for key, kind in (
            (None, Unauthenticated),
            ("fk-unknown", Unauthenticated),
            ("fk-other", PermissionDenied),
        ):
            metadata = outgoing_metadata(None, key)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RemoveModel(pb.RemoveModelRequest(name="chat"), metadata=metadata)
            assert isinstance(decode_error(caught.value), kind)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.AddModel(
                    pb.AddModelRequest(source="a/b"), metadata=metadata
                ):
                    pass
            assert isinstance(decode_error(caught.value), kind)
        assert [model.name for model in there.list()] == ["chat"]
        removed = await stub.RemoveModel(
            pb.RemoveModelRequest(name="chat"), metadata=outgoing_metadata(None, ADMIN)
        )
        assert removed.freed_bytes > 0 and there.list() == ()


async def add_remotely(stub: Any, **request: Any) -> list[pb.AddModelResponse]:
    call = stub.AddModel(
        pb.AddModelRequest(**request), metadata=outgoing_metadata(None, ADMIN), timeout=30
    )
    return [response async for response in call]


async def test_an_administrator_has_a_node_fetch_a_model(
    server: FileServer, there: ModelStore, gguf_bytes: bytes, tmp_path: Path
) -> None:
    server.serve("m.gguf", gguf_bytes)
    async with admin_stub(there) as (stub, _):
        source = server.url("m.gguf")
        responses = await add_remotely(stub, source=source, name="m")
        assert list(responses[-1].artefact.names) == ["m"]
        assert all(r.WhichOneof("event") == "progress" for r in responses[:-1])
        add_model(there, tmp_path, "other")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await add_remotely(stub, source=source, name="other")
        assert isinstance(decode_error(caught.value), AlreadyExists)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await add_remotely(stub, source=source, name="n", sha256="0" * 64)
        assert decode_error(caught.value).reason == "MODEL_HASH_MISMATCH"


@pytest.mark.parametrize("source", ["/etc/hostname", "made-chat", "../x", "file:///etc/x", ""])
async def test_a_node_gives_no_path_of_its_own_to_an_administrator(
    there: ModelStore, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_model(ModelStore(tmp_path / "other"), tmp_path)
    async with admin_stub(there) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await add_remotely(stub, source=source)
        found = decode_error(caught.value)
        assert isinstance(found, InvalidArgument) and found.field == "source"


async def test_a_caller_that_goes_away_stops_the_work_and_the_next_one_goes_on(
    server: FileServer, there: ModelStore, gguf_bytes: bytes
) -> None:
    server.serve("m.gguf", gguf_bytes, bytes_per_write=100, stall_after_bytes=[1500])
    request = pb.AddModelRequest(source=server.url("m.gguf"), name="m")
    store = ModelStore(
        there.contents.root, retrying=Retrying(RetryRules(stall_s=0.3), sleep=lambda _: None)
    )
    async with admin_stub(store) as (stub, servicer):
        call = stub.AddModel(request, metadata=outgoing_metadata(None, ADMIN))
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await add_remotely(stub, source="a/b")
        assert decode_error(caught.value).reason == "STORE_BUSY"
        call.cancel()
        await eventually(lambda: servicer._job is None, what="the end of the work")
        assert there.list() == ()
        await add_remotely(stub, source=request.source, name="m")
    assert there.resolve("m").path.read_bytes() == gguf_bytes
    assert server.sent_bytes <= len(gguf_bytes) + 100


async def test_sending_keeps_to_the_rates_of_all_and_of_each_caller(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=20_000)
    content_bytes, now_s = stored.size_bytes, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    limits = ServingLimits(bytes_per_s=400_000, caller_bytes_per_s=100_000)
    servicer = ModelsServicer(there, require_admin, limits, now_s=lambda: now_s, sleep=sleep)
    async with serve((REGISTER, servicer)) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        _, chunks = await read(stub, stored.digest, "made.gguf", 0)
    assert max(map(len, chunks)) <= 25_000
    assert now_s == pytest.approx(content_bytes / 100_000 - 0.25, rel=0.02)
    now_s = 0.0
    servicer = ModelsServicer(
        there,
        require_admin,
        replace(limits, caller_bytes_per_s=0),
        now_s=lambda: now_s,
        sleep=sleep,
    )
    async with serve((REGISTER, servicer)) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        await asyncio.gather(*(read(stub, stored.digest, "made.gguf", 0) for _ in range(3)))
    assert now_s >= 3 * content_bytes / 400_000 - 0.25 - 0.001


async def test_more_readers_than_allowed_are_asked_to_come_back(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=80_000)
    async with serve((REGISTER, Recording(there, ServingLimits(reader_count=1)))) as (
        channel,
        _,
    ):
        stub = pb_grpc.ModelsServiceStub(channel)
        request = pb.ReadArtefactRequest(digest=stored.digest, path="made.gguf")
        first = stub.ReadArtefact(request)
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(stub, stored.digest, "made.gguf", 0)
        found = decode_error(caught.value)
        assert (found.reason, found.retry_after_ms) == ("TOO_MANY_READERS", 2000)
        first.cancel()
        await eventually(lambda: can_read(stub, stored.digest), what="a free place")


async def can_read(stub: Any, digest: str) -> bool:
    try:
        await read(stub, digest, "made.gguf", 0)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_node_that_stops_ends_its_streams_and_the_reader_goes_on_elsewhere(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=80_000)
    servicer = Recording(there)
    async with serve((REGISTER, servicer)) as (channel, _):
        servicer.end_streams()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(pb_grpc.ModelsServiceStub(channel), stored.digest, "made.gguf", 0)
        assert decode_error(caught.value).reason == "CLOSING"
