"""Node to node: what one has stored another fetches, on after breaks, from its own region first; nobody else writes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.certificates import Authority, needs_openssl
from tests.support.file_server import FileServer
from tests.support.plain_gguf import write_gguf
from tests.support.tiny_onnx import save_model, write

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore, Retrying, RetryRules, StoredModel, StoreLimits
from farthing.inference.store.ensuring import ensure_stored
from farthing.inference.store.nodes import (
    Node,
    find_nodes,
    parse_node_source,
    parse_nodes,
    rank_nodes,
)
from farthing.inference.store.servicer import ModelsServicer, ServingLimits
from farthing.inference.store_settings import StoreSettings
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import Instance, Registration, StaticRegistry
from farthing.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    FarthingError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.rpc.server import RpcServer
from farthing.kit.rpc.tls import read_tls_files
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder
from farthing.kit.testing import eventually, serve

ADMIN = "fk-admin"
_REGISTER = pb_grpc.add_ModelsServiceServicer_to_server


async def require_admin(key_digest: bytes) -> None:
    if key_digest == hashlib.sha256(b"fk-other").digest():
        raise PermissionDenied("not an administrator's key", reason="ADMIN_REQUIRED")
    if key_digest != hashlib.sha256(ADMIN.encode()).digest():
        raise Unauthenticated("unknown key", reason="KEY_INVALID")


class Recording(ModelsServicer):
    """Notes from where it was read, and sends so many chunks a stream at most."""

    def __init__(self, store: ModelStore, limits: ServingLimits | None = None) -> None:
        super().__init__(store, require_admin, limits or ServingLimits())
        self.offsets: list[int] = []
        self.chunk_limits: list[int] = []

    async def ReadArtefact(
        self, request: pb.ReadArtefactRequest, context: Any
    ) -> AsyncGenerator[pb.ReadArtefactResponse]:
        self.offsets.append(request.offset_bytes)
        left = self.chunk_limits.pop(0) if self.chunk_limits else 1 << 30
        async for response in super().ReadArtefact(request, context):
            if response.WhichOneof("event") == "chunk":
                left -= 1
            if left < 0:
                raise Unavailable("going away", reason="CLOSING")
            yield response


@pytest.fixture
def there(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "there")


@pytest.fixture
def here(tmp_path: Path, pauses: list[float]) -> ModelStore:
    rules = RetryRules(attempt_count=4, stall_s=0.6)
    return ModelStore(tmp_path / "here", retrying=Retrying(rules, sleep=pauses.append))


def add_model(
    store: ModelStore, tmp_path: Path, name: str = "chat", size: int = 0
) -> StoredModel:
    tokens = tuple(f"token-{number:032}" for number in range(size or 3))
    folder = tmp_path / f"made-{name}"
    folder.mkdir(exist_ok=True)
    return store.add(write_gguf(folder / "made.gguf", tokens=tokens), name)


async def fetch(store: ModelStore, name: str, *addresses: str, **how: Any) -> StoredModel:
    return await asyncio.to_thread(store.fetch, name, parse_nodes(addresses), **how)


async def test_what_is_stored_is_listed_with_its_files_and_origin(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path)
    there.add(stored.path, "alias")
    async with serve((_REGISTER, Recording(there))) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        (artefact,) = (await stub.ListArtefacts(pb.ListArtefactsRequest())).artefacts
        assert (artefact.digest, list(artefact.names)) == (stored.digest, ["alias", "chat"])
        assert (artefact.format, artefact.quantization) == ("gguf", "Q8_0")
        assert artefact.files[0].sha256 == stored.digest
        assert artefact.provenance.source.endswith("made.gguf")
        assert artefact.provenance.HasField("add_time")
        for request in (
            pb.ListArtefactsRequest(name="absent"),
            pb.ListArtefactsRequest(digest="0" * 64),
        ):
            assert not (await stub.ListArtefacts(request)).artefacts
        by_name = await stub.ListArtefacts(pb.ListArtefactsRequest(name="alias"))
        assert len(by_name.artefacts) == 1


async def read(
    stub: Any, digest: str, path: str, offset: int
) -> tuple[pb.ArtefactFile, list[bytes]]:
    request = pb.ReadArtefactRequest(digest=digest, path=path, offset_bytes=offset)
    responses = [response async for response in stub.ReadArtefact(request, timeout=10)]
    return responses[0].file, [response.chunk for response in responses[1:]]


async def test_a_file_is_read_from_any_byte_with_its_hash_first(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=40_000)
    content = stored.path.read_bytes()
    async with serve((_REGISTER, Recording(there))) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        for offset in (0, 1, len(content) - 1, len(content)):
            file, chunks = await read(stub, stored.digest, "made.gguf", offset)
            assert (file.sha256, file.size_bytes) == (stored.digest, len(content))
            assert b"".join(chunks) == content[offset:]
            assert all(len(chunk) <= 1 << 20 for chunk in chunks)


async def test_a_read_that_cannot_be_says_why(there: ModelStore, tmp_path: Path) -> None:
    stored = add_model(there, tmp_path)
    async with serve((_REGISTER, Recording(there))) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        for digest, path, offset, kind in (
            ("0" * 64, "made.gguf", 0, NotFound),
            ("../names", "chat.json", 0, NotFound),
            (stored.digest, "../../names/chat.json", 0, NotFound),
            (stored.digest, "model.json", 0, NotFound),
            (stored.digest, "made.gguf", -1, InvalidArgument),
            (stored.digest, "made.gguf", 1 << 40, InvalidArgument),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(stub, digest, path, offset)
            assert isinstance(decode_error(caught.value), kind)
        stored.path.chmod(0o644)
        stored.path.write_bytes(b"GGUF")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(stub, stored.digest, "made.gguf", 0)
        assert isinstance(decode_error(caught.value), FailedPrecondition)


async def test_a_model_comes_from_another_node_with_card_and_origin(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    save_model(folder)
    write(folder / "model.json", {"name": "tiny", "license": "MIT", "bytes_per_token": 2.5})
    stored = there.add(folder)
    quality = {"t": {"easy": {"exact_match_ratio": 0.5, "n": 4}}}
    there.record_measurement("tiny", {"task_quality": quality})
    async with serve((_REGISTER, Recording(there))) as (_, address):
        fetched = await fetch(here, "tiny", address)
    assert fetched.digest == stored.digest
    assert fetched.card["bytes_per_token"] == 2.5
    assert fetched.card["task_quality"] == quality
    assert fetched.source == f"node://{address}/tiny"
    assert fetched.provenance["origin"] == str(folder)
    assert fetched.provenance["licence"] == "MIT"
    assert (fetched.path / "model.onnx").read_bytes() == (
        stored.path / "model.onnx"
    ).read_bytes()
    assert list(here.contents.incoming.glob("*")) == []


async def test_a_break_is_gone_on_with_and_at_another_node_if_need_be(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=80_000)
    first, second = Recording(there), Recording(there)
    first.chunk_limits, second.chunk_limits = [1, 0], [1]
    async with (
        serve((_REGISTER, first)) as (_, one),
        serve((_REGISTER, second)) as (_, two),
    ):
        fetched = await fetch(here, "chat", one, two)
    assert fetched.path.read_bytes() == stored.path.read_bytes()
    chunk = 1 << 20
    assert (first.offsets, second.offsets) == ([0, 2 * chunk], [chunk, 2 * chunk])


async def test_the_next_call_goes_on_where_the_last_one_ended(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=80_000)
    node = Recording(there)
    node.chunk_limits = [2, 0, 0, 0, 0, 0]
    async with serve((_REGISTER, node)) as (_, address):
        with pytest.raises(Unavailable, match="going away"):
            await fetch(here, "chat", address)
        assert here.list() == ()
        node.chunk_limits.clear()
        assert (await fetch(here, "chat", address)).digest == stored.digest
    assert node.offsets[-1] == 2 << 20


async def test_a_node_with_rotten_bytes_is_left_for_another(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    rotten = ModelStore(tmp_path / "rotten")
    stored, bad = add_model(there, tmp_path), add_model(rotten, tmp_path)
    bad.path.chmod(0o644)
    bad.path.write_bytes(bytes(stored.size_bytes))
    async with (
        serve((_REGISTER, Recording(rotten))) as (_, one),
        serve((_REGISTER, Recording(there))) as (_, two),
    ):
        with pytest.raises(InvalidArgument, match="came out other than listed"):
            await fetch(here, "chat", one)
        assert here.list() == ()
        fetched = await fetch(here, "chat", one, two)
    assert fetched.path.read_bytes() == stored.path.read_bytes()


async def test_files_that_the_store_has_are_not_fetched(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    save_model(folder, seed=1)
    here.add(folder, "mine")
    save_model(folder, seed=2)
    there.add(folder, "tiny")
    node = Recording(there)
    async with serve((_REGISTER, node)) as (_, address):
        await fetch(here, "tiny", address)
    assert node.offsets == [0]  # the graph alone is another


async def test_nodes_without_the_model_or_the_service_are_passed_over(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    add_model(there, tmp_path)
    empty = ModelStore(tmp_path / "empty")

    class NotThere(Recording):
        async def ListArtefacts(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "what is that?")

    async with (
        serve((_REGISTER, NotThere(there))) as (_, old),
        serve((_REGISTER, Recording(empty))) as (_, bare),
        serve((_REGISTER, Recording(there))) as (_, good),
    ):
        assert (await fetch(here, "chat", "127.0.0.1:9", old, bare, good)).name == "chat"
        with pytest.raises(NotFound, match="does not have it"):
            await fetch(here, "other", bare, good)
        with pytest.raises(Unavailable, match="does not answer"):
            await fetch(here, "other", bare, "127.0.0.1:9")
    with pytest.raises(NotFound, match="none is known"):
        await fetch(here, "chat")


async def test_a_node_that_goes_quiet_is_left(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    add_model(there, tmp_path)

    class Quiet(Recording):
        async def ReadArtefact(self, request: Any, context: Any) -> Any:
            async for response in super().ReadArtefact(request, context):
                yield response
                await asyncio.Event().wait()

    async with (
        serve((_REGISTER, Quiet(there))) as (_, one),
        serve((_REGISTER, Recording(there))) as (_, two),
    ):
        assert (await fetch(here, "chat", one, two)).name == "chat"


async def test_a_reader_that_takes_its_time_does_not_take_the_node_for_dead(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=35_000)
    assert stored.size_bytes > 1 << 20
    slow = ModelStore(
        tmp_path / "slow",
        limits=StoreLimits(fetch_bytes_per_s=1_200_000),
        retrying=Retrying(RetryRules(stall_s=0.5)),
    )
    node = Recording(there)
    async with serve((_REGISTER, node)) as (_, address):
        assert (await fetch(slow, "chat", address)).digest == stored.digest
    assert node.offsets == [0]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda a: setattr(a.files[0], "path", "../../evil"), "leads elsewhere"),
        (lambda a: setattr(a.files[0], "path", "model.json"), "or the card's"),
        (lambda a: setattr(a, "digest", "0" * 64), "not that of its files"),
        (lambda a: setattr(a.files[0], "size_bytes", -1), "no usable size"),
        (lambda a: setattr(a, "card_json", "[" * 100_000), "nested too deeply"),
        (lambda a: a.files.pop(), "0 files"),
        (lambda a: setattr(a, "format", "exe"), "no known format"),
    ],
)
async def test_a_node_that_describes_no_model_is_not_believed(
    there: ModelStore,
    here: ModelStore,
    tmp_path: Path,
    change: Callable[[Any], object],
    finding: str,
) -> None:
    add_model(there, tmp_path)

    class Lying(Recording):
        async def ListArtefacts(self, request: Any, context: Any) -> Any:
            answer = await super().ListArtefacts(request, context)
            change(answer.artefacts[0])
            return answer

    async with serve((_REGISTER, Lying(there))) as (_, address):
        with pytest.raises(FarthingError, match=finding):
            await fetch(here, "chat", address)
    assert here.list() == ()


async def test_a_node_that_sends_too_much_or_another_file_is_dropped(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    add_model(there, tmp_path)

    class Flooding(Recording):
        async def ReadArtefact(self, request: Any, context: Any) -> Any:
            async for response in super().ReadArtefact(request, context):
                yield response
            while True:
                yield pb.ReadArtefactResponse(chunk=bytes(1 << 16))

    class Swapping(Recording):
        async def ReadArtefact(self, request: Any, context: Any) -> Any:
            yield pb.ReadArtefactResponse(file=pb.ArtefactFile(path="x", size_bytes=1))

    for kind, finding in ((Flooding, "sends more"), (Swapping, "another file")):
        async with serve((_REGISTER, kind(there))) as (_, address):
            with pytest.raises(FailedPrecondition, match=finding):
                await fetch(here, "chat", address)


@asynccontextmanager
async def admin_stub(store: ModelStore) -> AsyncIterator[tuple[Any, Recording]]:
    servicer = Recording(store)
    async with serve((_REGISTER, servicer)) as (channel, _):
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
    async with serve((_REGISTER, servicer)) as (channel, _):
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
    async with serve((_REGISTER, servicer)) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        await asyncio.gather(*(read(stub, stored.digest, "made.gguf", 0) for _ in range(3)))
    assert now_s >= 3 * content_bytes / 400_000 - 0.25 - 0.001


async def test_more_readers_than_allowed_are_asked_to_come_back(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=80_000)
    async with serve((_REGISTER, Recording(there, ServingLimits(reader_count=1)))) as (
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
    async with serve((_REGISTER, servicer)) as (channel, _):
        servicer.end_streams()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(pb_grpc.ModelsServiceStub(channel), stored.digest, "made.gguf", 0)
        assert decode_error(caught.value).reason == "CLOSING"


def instance(name: str, region: str, *, suspect: bool = False) -> Instance:
    return Instance(name, "infer-edge", f"{name}.example:1", region, suspect=suspect)


def test_nodes_of_the_own_region_are_asked_first_and_never_oneself() -> None:
    ranked = rank_nodes(
        [
            instance("b", "far"),
            instance("c", "home"),
            instance("a", "home", suspect=True),
            instance("me", "home"),
            instance("d", "home"),
        ],
        region="home",
        own_id="me",
    )
    assert [node.address[0] for node in ranked] == ["c", "d", "b", "a"]


async def test_discovery_names_edge_and_cloud_nodes() -> None:
    registry = StaticRegistry(clock=SystemClock())
    for service, number in (("infer-cloud", 1), ("infer-edge", 2), ("router", 3)):
        await registry.register(
            Registration(f"n{number}", service, f"127.0.0.1:{number}", "home")
        )
    found = await find_nodes(registry, region="home")
    assert [node.address for node in found] == ["127.0.0.1:1", "127.0.0.1:2"]
    await registry.close()


def test_a_source_on_a_node_is_an_address_and_a_name() -> None:
    assert parse_node_source("node://10.0.0.5:50061/chat") == (Node("10.0.0.5:50061"), "chat")
    assert parse_node_source("node://[::1]:50061/chat") == (Node("[::1]:50061"), "chat")
    assert parse_node_source("owner/chat") is None
    for text in ("node://chat", "node://h:1/", "node://h:1/../x", "node://u@h:1/x"):
        with pytest.raises(InvalidArgument):
            parse_node_source(text)


async def test_a_node_source_can_be_added_like_any_other(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path)
    async with serve((_REGISTER, Recording(there))) as (_, address):
        added = await asyncio.to_thread(here.add, f"node://{address}/chat", "mine")
    assert (added.name, added.digest) == ("mine", stored.digest)
    assert json.loads((added.path.parent / "model.json").read_text())["provenance"]["origin"]


async def test_a_service_has_its_model_fetched_when_its_store_lacks_it(
    there: ModelStore, here: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path)
    registry = StaticRegistry(clock=SystemClock())
    settings = StoreSettings(region="home")
    await ensure_stored(here, "chat", settings, registry, "me")  # nobody to ask yet
    assert here.list() == ()
    async with serve((_REGISTER, Recording(there))) as (_, address):
        await registry.register(Registration("n1", "infer-cloud", address, "home"))
        await registry.register(Registration("me", "infer-edge", "127.0.0.1:9", "home"))
        await ensure_stored(here, "chat", settings, registry, "me")
        assert here.resolve("chat").digest == stored.digest
        here.remove("chat")
        sources = StoreSettings(model_sources=(address,))
        await ensure_stored(here, "chat", sources, StaticRegistry(clock=SystemClock()), "me")
    await ensure_stored(here, "chat", sources, registry, "me")  # it is here: nobody is asked
    await ensure_stored(here, str(stored.path), sources, registry, "me")
    with pytest.raises(Unavailable):
        await ensure_stored(here, "other", sources, registry, "me")
    await registry.close()


@needs_openssl
async def test_any_peer_of_the_mesh_reads_and_nobody_else(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path)
    authority = Authority(tmp_path / "tls")
    ours, friend = (read_tls_files(authority.issue(name)) for name in ("server", "device-7"))
    server = RpcServer(
        "127.0.0.1:0", recorder=NullRecorder(), metrics=Metrics("tls"), tls=ours, drain_ms=0
    )
    servicer = Recording(there, ServingLimits(caller_bytes_per_s=1 << 30))
    server.add(_REGISTER, servicer, end_streams=servicer.end_streams)
    await server.start()
    address = f"127.0.0.1:{server.port}"
    try:
        here = ModelStore(tmp_path / "here", tls=friend)
        assert (await fetch(here, "chat", address)).digest == stored.digest
        assert any("device-7" in caller for caller in servicer._rate._callers)
        with pytest.raises(Unavailable):
            await fetch(ModelStore(tmp_path / "stranger"), "chat", address)
        async with open_channel(address, tls=friend) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await pb_grpc.ModelsServiceStub(channel).RemoveModel(
                    pb.RemoveModelRequest(name="chat")
                )
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        await server.stop()
