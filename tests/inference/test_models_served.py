"""The models of a real process of either tier: loaded, swapped, unloaded and fetched while it answers."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.engine_node import AS_ADMIN, EngineNode, run_node, run_quota
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_onnx import save_model

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.models.v1 import models_pb2
from farthing.cloud import plan
from farthing.cloud.settings import CloudSettings
from farthing.edge import loading
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

WEIGHTS = {"edge": "m.gguf", "cloud": "model.onnx"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with run_quota(tmp_path_factory.mktemp("quota")) as file:
        yield file


@pytest.fixture(scope="module", params=["edge", "cloud"])
def tier(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def models(tier: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of one kind, each of which answers otherwise; a GGUF file is in a folder too."""
    folder = tmp_path_factory.mktemp("models")
    names = ("one", "two", "three")
    for seed, name in enumerate(names, 1):
        if tier == "edge":
            (folder / name).mkdir()
            write_tiny_gguf(folder / name / WEIGHTS[tier], seed=seed)
        else:
            save_model(folder / name, seed=seed)
    return {name: folder / name for name in names}


@pytest.fixture
async def node(
    tier: str, registry: Path, models: dict[str, Path], tmp_path: Path
) -> AsyncIterator[EngineNode]:
    """Serves "one"; "two" and "three" are stored beside it."""
    fill(tier, tmp_path / "data", models)
    async with run_node(tier, tmp_path / "data", registry, "one") as node:
        yield node


def fill(tier: str, data_dir: Path, models: dict[str, Path]) -> None:
    store = ModelStore(data_dir / "models")
    for name, folder in models.items():
        store.add(folder / WEIGHTS[tier] if tier == "edge" else folder, name)


async def refusal(call: Any) -> FarthingError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


async def test_a_stored_model_is_loaded_asked_and_unloaded(node: EngineNode) -> None:
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


async def test_only_administrators_change_what_is_served(node: EngineNode) -> None:
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


async def test_a_swap_under_traffic_fails_no_request(node: EngineNode) -> None:
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
    node: EngineNode, models: dict[str, Path], tmp_path: Path
) -> None:
    before = await node.ask("one")
    wrong = [models_pb2.Canary(prompt="hello", answer="a fish")]
    error = await refusal(node.load("two", "one", swap=True, canaries=wrong))
    assert (type(error), error.reason) == (FailedPrecondition, "CANARY_FAILED")
    folder = tmp_path / "carded"
    shutil.copytree(models["three"], folder)
    (folder / "model.json").write_text(
        '{"canaries": [{"prompt": "hello", "answer": "a fish"}]}', encoding="utf-8"
    )
    fill(node.tier, node.data_dir, {"carded": folder})
    error = await refusal(node.load("carded", "one", swap=True))
    assert error.reason == "CANARY_FAILED" and "carded" not in await node.names()
    assert await node.ask("one") == before and node.engine_count() == 1
    assert node.process.poll() is None


async def test_what_is_damaged_or_no_model_is_refused_and_the_old_one_answers(
    node: EngineNode,
) -> None:
    before = await node.ask("one")
    flipped, cut = (
        stored if stored.is_file() else stored / WEIGHTS[node.tier]
        for stored in (node.store.resolve(name).path for name in ("two", "three"))
    )
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    for path, damaged in ((flipped, bytes(content)), (cut, cut.read_bytes()[:-1_000])):
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
    tier: str, registry: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    fill(tier, data_dir, models)
    limit = str(need_bytes(tier, data_dir) * 5 // 2)
    async with run_node(
        tier, data_dir, registry, "one", FARTHING_ENGINE_MODELS_BYTES=limit
    ) as node:
        await node.load("two")
        await node.ask("one")
        loaded = await node.load("three")
        assert list(loaded.unloaded) == ["two"]
        assert await node.names() == ["one", "three"] and node.engine_count() == 2
        assert (await refusal(node.ask("two"))).reason == "MODEL_NOT_LOADED"
        assert list((await node.load("two")).unloaded) == ["one"]


def need_bytes(tier: str, data_dir: Path) -> int:
    """What "one" takes in memory, as its service will reckon."""
    if tier == "edge":
        edge_settings = EdgeSettings(
            model="one", data_dir=data_dir, thread_count=1, context_length=256
        )
        return check_memory(loading.make_plan(edge_settings)).total_bytes
    cloud_settings = CloudSettings(
        model="one", data_dir=data_dir, thread_count=1, context_length=256
    )
    return plan.estimate_need_bytes(plan.make_plan(cloud_settings))


async def test_a_node_fetches_the_model_that_it_is_to_serve(
    registry: Path, node: EngineNode, tmp_path: Path
) -> None:
    async with run_node(
        node.tier, tmp_path / "here", registry, "two", FARTHING_MODEL_SOURCES=node.address
    ) as here:
        assert await here.names() == ["two"]
        assert here.store.resolve("two").source == f"node://{node.address}/two"
