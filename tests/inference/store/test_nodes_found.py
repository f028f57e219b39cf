"""Which nodes are asked: those of the own region first, never oneself; and whom a node lets read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from tests.support.certificates import Authority, needs_openssl
from tests.support.model_nodes import (
    REGISTER,
    Recording,
    add_model,
    fetch,
)

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore
from farthing.inference.store.ensuring import ensure_stored
from farthing.inference.store.nodes import (
    Node,
    find_nodes,
    parse_node_source,
    rank_nodes,
)
from farthing.inference.store.servicer import ServingLimits
from farthing.inference.store_settings import StoreSettings
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import Instance, Registration, StaticRegistry
from farthing.kit.errors import (
    InvalidArgument,
    Unavailable,
)
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.rpc.tls import read_tls_files
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder
from farthing.kit.testing import serve


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
    async with serve((REGISTER, Recording(there))) as (_, address):
        there.add(stored.path, "alias")
        added = await asyncio.to_thread(here.add, f"node://{address}/chat", "mine")
        kept = await asyncio.to_thread(here.add, f"node://{address}/alias")
    assert kept.name == "alias"
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
    async with serve((REGISTER, Recording(there))) as (_, address):
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
    server.add(REGISTER, servicer, end_streams=servicer.end_streams)
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
