"""The model stores of other nodes: listed by anybody, changed with an administrator's key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc

from farthing.api.inference.v1 import inference_pb2, inference_pb2_grpc
from farthing.api.models.v1 import models_pb2, models_pb2_grpc
from farthing.cli.connection import connect, explain_error, require_key, run
from farthing.cli.settings import CliSettings
from farthing.inference.store import AddProgress, ProgressCallback
from farthing.inference.store.files import STAGES
from farthing.inference.store.nodes import Node, find_nodes, parse_nodes
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import open_registry
from farthing.kit.errors import Internal, InvalidArgument
from farthing.kit.rpc.channel import outgoing_metadata

_T = TypeVar("_T")
_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 900.0  # self-test, start and canaries of a large model


def list_remote(settings: CliSettings, address: str) -> models_pb2.ListArtefactsResponse:
    """What the store of a node holds."""

    async def work(stub: Any) -> models_pb2.ListArtefactsResponse:
        request = models_pb2.ListArtefactsRequest()
        response: models_pb2.ListArtefactsResponse = await stub.ListArtefacts(
            request, timeout=_TIMEOUT_S
        )
        return response

    return _call(settings, address, work)


def list_served(settings: CliSettings, address: str) -> list[tuple[str, str]] | None:
    """Name and digest of each model that a node serves; None when it only stores models."""

    async def work() -> list[tuple[str, str]] | None:
        async with connect(settings, address) as channel:
            try:
                response = await inference_pb2_grpc.InferenceServiceStub(channel).ListModels(
                    inference_pb2.ListModelsRequest(), timeout=_TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return None
                raise explain_error(error, address) from None
            return [(model.name, model.digest) for model in response.models]

    return run(work())


def remove_remote(settings: CliSettings, address: str, name: str, *, force: bool) -> int:
    """Removes a model from a node; the bytes freed."""
    metadata = outgoing_metadata(None, require_key(settings, admin=True))
    request = models_pb2.RemoveModelRequest(name=name, force=force)
    response = _call(
        settings,
        address,
        lambda stub: stub.RemoveModel(request, timeout=_TIMEOUT_S, metadata=metadata),
    )
    return int(response.freed_bytes)


def add_remote(
    settings: CliSettings,
    address: str,
    request: models_pb2.AddModelRequest,
    report: ProgressCallback,
) -> models_pb2.Artefact:
    """Has a node fetch a model; the model as it is stored there."""
    metadata = outgoing_metadata(None, require_key(settings, admin=True))

    async def work(stub: Any) -> models_pb2.Artefact:
        async for response in stub.AddModel(request, metadata=metadata):
            if response.WhichOneof("event") == "artefact":
                artefact: models_pb2.Artefact = response.artefact
                return artefact
            said = response.progress
            for stage in STAGES:
                if said.stage == stage:
                    report(AddProgress(stage, said.detail, said.done_bytes, said.total_bytes))
        raise Internal(f"{address} ended without a model", reason="NO_RESULT")

    return _call(settings, address, work)


def load_remote(
    settings: CliSettings, address: str, request: models_pb2.LoadModelRequest
) -> models_pb2.LoadModelResponse:
    """Has a service serve a model of its store."""
    metadata = outgoing_metadata(None, require_key(settings, admin=True))
    response: models_pb2.LoadModelResponse = _call(
        settings,
        address,
        lambda stub: stub.LoadModel(request, timeout=_LOAD_TIMEOUT_S, metadata=metadata),
    )
    return response


def unload_remote(settings: CliSettings, address: str, name: str) -> None:
    """Has a service serve a model no more."""
    metadata = outgoing_metadata(None, require_key(settings, admin=True))
    request = models_pb2.UnloadModelRequest(name=name)
    _call(
        settings,
        address,
        lambda stub: stub.UnloadModel(request, timeout=_LOAD_TIMEOUT_S, metadata=metadata),
    )


def choose_nodes(settings: CliSettings, addresses: tuple[str, ...]) -> list[Node]:
    """The nodes to fetch from: those named, else those of the settings, else those that discovery knows."""
    chosen = addresses or settings.model_sources
    if chosen:
        return parse_nodes(chosen)
    if not settings.consul_url and settings.registry_file is None:
        raise InvalidArgument(
            "no node to fetch from; name one with --from, or set FARTHING_MODEL_SOURCES, FARTHING_CONSUL_URL or "
            "FARTHING_REGISTRY_FILE",
            field="from",
        )

    async def work() -> list[Node]:
        registry = open_registry(
            settings.as_service_settings(), service="command", clock=SystemClock()
        )
        try:
            return await find_nodes(registry, region=settings.region)
        finally:
            await registry.close()

    return run(work())


def _call(settings: CliSettings, address: str, work: Callable[[Any], Awaitable[_T]]) -> _T:
    parse_nodes([address])

    async def connected() -> _T:
        async with _stub(settings, address) as stub:
            try:
                return await work(stub)
            except grpc.aio.AioRpcError as error:
                raise explain_error(error, address) from None

    return run(connected())


@asynccontextmanager
async def _stub(settings: CliSettings, address: str) -> AsyncIterator[Any]:
    async with connect(settings, address) as channel:
        yield models_pb2_grpc.ModelsServiceStub(channel)
