"""Node to node: what one has stored another fetches, on after breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.model_nodes import (
    REGISTER,
    Recording,
    add_model,
    fetch,
    read,
)
from tests.support.tiny_onnx import save_model, write

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore, Retrying, RetryRules, StoreLimits
from farthing.kit.errors import (
    FailedPrecondition,
    FarthingError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from farthing.kit.rpc.channel import decode_error
from farthing.kit.testing import serve


async def test_what_is_stored_is_listed_with_its_files_and_origin(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path)
    there.add(stored.path, "alias")
    async with serve((REGISTER, Recording(there))) as (channel, _):
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


async def test_a_file_is_read_from_any_byte_with_its_hash_first(
    there: ModelStore, tmp_path: Path
) -> None:
    stored = add_model(there, tmp_path, size=40_000)
    content = stored.path.read_bytes()
    async with serve((REGISTER, Recording(there))) as (channel, _):
        stub = pb_grpc.ModelsServiceStub(channel)
        for offset in (0, 1, len(content) - 1, len(content)):
            file, chunks = await read(stub, stored.digest, "made.gguf", offset)
            assert (file.sha256, file.size_bytes) == (stored.digest, len(content))
            assert b"".join(chunks) == content[offset:]
            assert all(len(chunk) <= 1 << 20 for chunk in chunks)


async def test_a_read_that_cannot_be_says_why(there: ModelStore, tmp_path: Path) -> None:
    stored = add_model(there, tmp_path)
    async with serve((REGISTER, Recording(there))) as (channel, _):
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
    async with serve((REGISTER, Recording(there))) as (_, address):
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
        serve((REGISTER, first)) as (_, one),
        serve((REGISTER, second)) as (_, two),
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
    async with serve((REGISTER, node)) as (_, address):
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
        serve((REGISTER, Recording(rotten))) as (_, one),
        serve((REGISTER, Recording(there))) as (_, two),
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
    async with serve((REGISTER, node)) as (_, address):
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
        serve((REGISTER, NotThere(there))) as (_, old),
        serve((REGISTER, Recording(empty))) as (_, bare),
        serve((REGISTER, Recording(there))) as (_, good),
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
        serve((REGISTER, Quiet(there))) as (_, one),
        serve((REGISTER, Recording(there))) as (_, two),
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
    async with serve((REGISTER, node)) as (_, address):
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

    async with serve((REGISTER, Lying(there))) as (_, address):
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
        async with serve((REGISTER, kind(there))) as (_, address):
            with pytest.raises(FailedPrecondition, match=finding):
                await fetch(here, "chat", address)
