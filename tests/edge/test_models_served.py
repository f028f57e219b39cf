"""What only the edge does with models that come and go: files that take long to come, adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tests.support.engine_node import AS_ADMIN, run_node, run_quota
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.models.v1 import models_pb2
from farthing.inference.store import ModelStore
from farthing.kit.errors import FailedPrecondition
from farthing.kit.rpc.channel import decode_error

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with run_quota(tmp_path_factory.mktemp("quota")) as file:
        yield file


async def test_a_transfer_that_a_loss_of_power_interrupts_goes_on_where_it_was(
    registry: Path, tmp_path: Path
) -> None:
    small = write_tiny_gguf(tmp_path / "small.gguf")
    large = write_tiny_gguf(tmp_path / "large.gguf", quantized=False, width=384)
    store = ModelStore(tmp_path / "there" / "models")
    store.add(large, "large")
    async with (
        run_node("edge", tmp_path / "here", registry, small) as node,
        run_node(
            "edge",
            tmp_path / "there",
            registry,
            small,
            FARTHING_MODEL_SERVE_BYTES_PER_S="1000000",
        ) as there,
    ):
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


async def test_adapters_stay_with_the_model_that_they_were_made_for(
    registry: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    store = ModelStore(data_dir / "models")
    for seed, name in enumerate(("one", "two"), 1):
        store.add(write_tiny_gguf(tmp_path / f"{name}.gguf", seed=seed), name)
    store.add(write_tiny_gguf(tmp_path / "wide.gguf", width=128), "wide")
    write_tiny_lora(tmp_path / "polite.gguf")
    async with run_node(
        "edge",
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
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.load("wide", "one", swap=True)
        error = decode_error(caught.value)
        assert isinstance(error, FailedPrecondition)
