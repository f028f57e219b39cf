"""The models of a real edge process: loaded, swapped, unloaded and fetched while it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.edge_node import AS_ADMIN, EdgeNode, run_edge, run_quota
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.models.v1 import models_pb2
from farthing.edge.loading import make_plan
from farthing.edge.memory_need import check_memory
from farthing.edge.settings import EdgeSettings
from farthing.inference.store import ModelStore
from farthing.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    FarthingError,
    InvalidArgument,
    NotFound,
    Unauthenticated,
)
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.testing import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with run_quota(tmp_path_factory.mktemp("quota")) as file:
        yield file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_tiny_gguf(folder / f"{name}.gguf", seed=seed)
        for seed, name in enumerate(("one", "two", "three"), 1)
    }


@pytest.fixture
async def node(
    registry: Path, files: dict[str, Path], tmp_path: Path
) -> AsyncIterator[EdgeNode]:
    """Serves "one"; "two" and "three" are stored beside it."""
    fill(tmp_path / "data", files)
    async with run_edge(tmp_path / "data", registry, "one") as node:
        yield node


def fill(data_dir: Path, files: dict[str, Path]) -> ModelStore:
    store = ModelStore(data_dir / "models")
    for name, file in files.items():
        store.add(file, name)
    return store


async def refusal(call: Any) -> FarthingError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


async def test_a_stored_model_is_loaded_asked_and_unloaded(node: EdgeNode) -> None:
    assert (await refusal(node.ask("two"))).reason == "MODEL_NOT_LOADED"
    assert (await refusal(node.ask("nine"))).reason == "MODEL_NOT_FOUND"
    loaded = await node.load("two")
    assert loaded.name == "two" and loaded.digest == node.store.resolve("two").digest
    assert loaded.memory_bytes > 0
    assert await node.names() == ["one", "two"] and node.engine_count() == 2
    assert await node.ask("one") != await node.ask("two")
    assert isinstance(await refusal(node.load("two")), AlreadyExists)
    held = await refusal(
        node.models.RemoveModel(models_pb2.RemoveModelRequest(name="two"), metadata=AS_ADMIN)
    )
    assert held.reason == "MODEL_IN_USE"
    await node.unload("two")
    await eventually(lambda: node.engine_count() == 1, what="the end of the engine")
    assert (await refusal(node.ask("two"))).reason == "MODEL_NOT_LOADED"
    assert isinstance(await refusal(node.unload("two")), NotFound)
    node.store.remove("two")


async def test_only_administrators_change_what_is_served(node: EdgeNode) -> None:
    unknown = outgoing_metadata(None, "fk-" + "x" * 32)
    for metadata in (None, unknown):
        for call in (
            node.models.LoadModel(models_pb2.LoadModelRequest(model="two"), metadata=metadata),
            node.models.UnloadModel(
                models_pb2.UnloadModelRequest(name="one"), metadata=metadata
            ),
        ):
            assert isinstance(await refusal(call), Unauthenticated)
    assert await node.names() == ["one"]


async def test_a_swap_under_traffic_fails_no_request(node: EdgeNode) -> None:
    await node.load("two")
    old, new = await node.ask("one"), await node.ask("two")
    await node.unload("two")
    stop = asyncio.Event()
    answers: list[str] = []
    lengths: list[int] = []

    async def keep_asking() -> None:
        while not stop.is_set():
            answers.append(await node.ask("one"))

    async def keep_streaming() -> None:
        endless = pb.SamplingParams(logit_bias={0: -100.0})
        given = pb.GenerationInput(prompt="hello", max_tokens=200, sampling=endless)
        while not stop.is_set():
            request = pb.GenerateRequest(model="one", input=given)
            events = [event async for event in node.inference.Generate(request, timeout=60)]
            assert events[-1].completion.usage.output_token_count == 200
            lengths.append(len(events))

    askers = [asyncio.create_task(keep_asking()) for _ in range(3)]
    askers.append(asyncio.create_task(keep_streaming()))
    await eventually(lambda: len(answers) >= 4, what="traffic")
    loaded = await node.load("two", "one", swap=True)
    assert (loaded.name, loaded.digest) == ("one", node.store.resolve("two").digest)
    count = len(answers)
    await eventually(lambda: len(answers) >= count + 8, what="traffic after the swap")
    stop.set()
    await asyncio.gather(*askers)
    assert lengths and set(answers) == {old, new}
    assert answers[0] == old and answers[-8:] == [new] * 8
    await eventually(lambda: node.engine_count() == 1, what="the end of the old engine")
    assert await node.names() == ["one"]


async def test_a_model_that_answers_its_canaries_wrongly_changes_nothing(
    node: EdgeNode, files: dict[str, Path], tmp_path: Path
) -> None:
    before = await node.ask("one")
    wrong = [models_pb2.Canary(prompt="hello", answer="a fish")]
    error = await refusal(node.load("two", "one", swap=True, canaries=wrong))
    assert (type(error), error.reason) == (FailedPrecondition, "CANARY_FAILED")
    folder = tmp_path / "carded"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(files["three"].read_bytes())
    (folder / "model.json").write_text(
        '{"canaries": [{"prompt": "hello", "answer": "a fish"}]}', encoding="utf-8"
    )
    node.store.add(folder / "m.gguf", "carded")
    error = await refusal(node.load("carded", "one", swap=True))
    assert error.reason == "CANARY_FAILED" and "carded" not in await node.names()
    assert await node.ask("one") == before and node.engine_count() == 1
    assert node.process.poll() is None


async def test_what_is_damaged_or_no_model_is_refused_and_the_old_one_answers(
    node: EdgeNode,
) -> None:
    before = await node.ask("one")
    flipped, cut = (node.store.resolve(name).path for name in ("two", "three"))
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    for path, damaged in ((flipped, bytes(content)), (cut, cut.read_bytes()[:60_000])):
        path.chmod(0o644)
        path.write_bytes(damaged)
    for name in ("two", "three"):
        error = await refusal(node.load(name, "one", swap=True))
        assert (type(error), error.reason) == (FailedPrecondition, "MODEL_DAMAGED")
        assert name in error.message and "add it again" in error.message
    for model in (str(flipped), "../one", ""):
        found = await refusal(node.load(model, "one", swap=True))
        assert isinstance(found, InvalidArgument) and found.field == "model"
    assert isinstance(await refusal(node.load("absent")), NotFound)
    assert await node.ask("one") == before
    assert node.engine_count() == 1 and node.process.poll() is None


async def test_the_model_that_was_used_least_recently_makes_room(
    registry: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir, files)
    settings = EdgeSettings(model="one", data_dir=data_dir, thread_count=1, context_length=256)
    need_bytes = check_memory(make_plan(settings)).total_bytes
    limit = str(need_bytes * 5 // 2)
    async with run_edge(data_dir, registry, "one", FARTHING_ENGINE_MODELS_BYTES=limit) as node:
        await node.load("two")
        await node.ask("one")
        loaded = await node.load("three")
        assert list(loaded.unloaded) == ["two"]
        assert await node.names() == ["one", "three"] and node.engine_count() == 2
        assert (await refusal(node.ask("two"))).reason == "MODEL_NOT_LOADED"
        assert list((await node.load("two")).unloaded) == ["one"]


async def test_a_transfer_that_a_loss_of_power_interrupts_goes_on_where_it_was(
    registry: Path, node: EdgeNode, files: dict[str, Path], tmp_path: Path
) -> None:
    large = write_tiny_gguf(tmp_path / "large.gguf", quantized=False, width=384)
    store = fill(tmp_path / "there", {"large": large})
    async with run_edge(
        tmp_path / "there", registry, files["one"], FARTHING_MODEL_SERVE_BYTES_PER_S="1000000"
    ) as there:
        request = models_pb2.AddModelRequest(
            source=f"node://{there.address}/large", name="large"
        )
        adding = node.models.AddModel(request, metadata=AS_ADMIN, timeout=120)
        done_bytes: list[int] = []
        artefact = None
        async for event in adding:
            if event.WhichOneof("event") == "artefact":
                artefact = event.artefact
            elif event.progress.stage == "download":
                if not done_bytes and event.progress.done_bytes:
                    there.kill()
                    there.start_again()
                done_bytes.append(event.progress.done_bytes)
        assert artefact is not None and artefact.digest == store.resolve("large").digest
        assert done_bytes[0] < large.stat().st_size and done_bytes == sorted(done_bytes)
        loaded = await node.load("large")
        assert loaded.digest == artefact.digest and await node.ask("large")
        await there.ready()


async def test_a_node_fetches_the_model_that_it_is_to_serve(
    registry: Path, node: EdgeNode, tmp_path: Path
) -> None:
    async with run_edge(
        tmp_path / "here", registry, "two", FARTHING_MODEL_SOURCES=node.address
    ) as here:
        assert await here.names() == ["two"]
        assert here.store.resolve("two").source == f"node://{node.address}/two"


async def test_adapters_stay_with_the_model_that_they_were_made_for(
    registry: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    fill(data_dir, files)
    other = write_tiny_gguf(tmp_path / "wide.gguf", width=128)
    ModelStore(data_dir / "models").add(other, "wide")
    write_tiny_lora(tmp_path / "polite.gguf")
    async with run_edge(
        data_dir,
        registry,
        "one",
        FARTHING_EDGE_ADAPTERS=f"polite={tmp_path / 'polite.gguf'}",
    ) as node:
        await node.load("wide")
        await node.load("two", "one", swap=True)
        listed = await node.inference.ListModels(pb.ListModelsRequest())
        adapters = {model.name: list(model.adapters) for model in listed.models}
        assert adapters == {"one": ["polite"], "wide": []}
        error = await refusal(node.load("wide", "one", swap=True))
        assert isinstance(error, FailedPrecondition)
