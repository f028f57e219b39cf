"""Models that come and go on a running suite: stored, loaded, used through the router, swapped, unloaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tests.support.books import agreed
from tests.support.running_suite import ROOT, RunningSuite
from tests.support.tenant import Tenant, ask
from tests.support.tiny_gguf import write_tiny_gguf

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore
from farthing.kit.errors import FailedPrecondition, InvalidArgument, NotFound, Unauthenticated
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.testing import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

EDGE = "edge-site-edge"
SMALL = ROOT / "deploy" / "demo-models" / "edge-small" / "edge-small-q8_0.gguf"


@pytest_asyncio.fixture(loop_scope="session")
async def stub(suite: RunningSuite) -> AsyncIterator[Any]:
    environ = suite.child(EDGE).plan.environ
    address = f"{environ['FARTHING_HOST']}:{environ['FARTHING_PORT']}"
    async with open_channel(address) as channel:
        yield pb_grpc.ModelsServiceStub(channel)


@pytest.fixture
def store(suite: RunningSuite) -> ModelStore:
    return ModelStore(Path(suite.child(EDGE).plan.environ["FARTHING_DATA_DIR"]) / "models")


async def refusal_of(call: Any) -> Exception:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return decode_error(caught.value)


async def test_a_stored_model_is_loaded_used_and_unloaded(
    suite: RunningSuite, tenant: Tenant, stub: Any, store: ModelStore
) -> None:
    store.add(SMALL, "second")
    metadata = outgoing_metadata(None, tenant.admin_key)
    request = pb.LoadModelRequest(model="second")
    loaded = await stub.LoadModel(request, metadata=metadata, timeout=60)
    assert loaded.name == "second" and loaded.memory_bytes > 0

    async def is_known() -> bool:
        return any("second" in one.models for one in (await tenant.instances()).values())

    await eventually(is_known, what="the router to know the model")
    told = await tenant.complete(ask("What is 2 + 3?", model="second"))
    assert told.model == "second" and told.tier == "edge" and told.text
    await suite.kill(EDGE)
    await suite.well(EDGE)
    await tenant.ready(EDGE)
    await eventually(is_known, what="the model to be served after a restart")
    told = await tenant.complete(ask("What is 2 + 4?", model="second"))
    assert told.model == "second" and told.tier == "edge" and told.text
    await stub.UnloadModel(pb.UnloadModelRequest(name="second"), metadata=metadata, timeout=60)
    error = await refusal_of(
        stub.UnloadModel(pb.UnloadModelRequest(name="second"), metadata=metadata, timeout=60)
    )
    assert isinstance(error, NotFound)
    await agreed(tenant)


async def test_a_model_that_fails_its_canaries_or_is_damaged_changes_nothing(
    tenant: Tenant, stub: Any, store: ModelStore, tmp_path: Path
) -> None:
    store.add(SMALL, "third")
    metadata = outgoing_metadata(None, tenant.admin_key)
    wrong = [pb.Canary(prompt="What is 2 + 3?", answer="a fish")]
    request = pb.LoadModelRequest(model="third", name="edge-small", swap=True, canaries=wrong)
    error = await refusal_of(stub.LoadModel(request, metadata=metadata, timeout=60))
    assert isinstance(error, FailedPrecondition) and error.reason == "CANARY_FAILED"
    torn = store.add(write_tiny_gguf(tmp_path / "other.gguf"), "torn").path
    torn.chmod(0o644)
    torn.write_bytes(torn.read_bytes()[:60_000])
    for model, kind in (("torn", FailedPrecondition), (str(SMALL), InvalidArgument)):
        request = pb.LoadModelRequest(model=model, name="edge-small", swap=True)
        error = await refusal_of(stub.LoadModel(request, metadata=metadata, timeout=60))
        assert isinstance(error, kind) and model in str(error)
    told = await tenant.complete(ask("What is 2 + 3?", model="edge-small"))
    assert told.model == "edge-small" and told.text


async def test_only_administrators_change_what_is_served(stub: Any) -> None:
    request = pb.LoadModelRequest(model="second")
    assert isinstance(await refusal_of(stub.LoadModel(request, timeout=20)), Unauthenticated)
