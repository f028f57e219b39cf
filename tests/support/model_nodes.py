"""Nodes that serve a model store, as tests of fetching and of administration have them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from tests.support.plain_gguf import write_gguf

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store import ModelStore, StoredModel
from farthing.inference.store.nodes import (
    parse_nodes,
)
from farthing.inference.store.servicer import ModelsServicer, ServingLimits
from farthing.kit.errors import (
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

ADMIN = "fk-admin"
REGISTER = pb_grpc.add_ModelsServiceServicer_to_server


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


def add_model(
    store: ModelStore, tmp_path: Path, name: str = "chat", size: int = 0
) -> StoredModel:
    tokens = tuple(f"token-{number:032}" for number in range(size or 3))
    folder = tmp_path / f"made-{name}"
    folder.mkdir(exist_ok=True)
    return store.add(write_gguf(folder / "made.gguf", tokens=tokens), name)


async def fetch(store: ModelStore, name: str, *addresses: str, **how: Any) -> StoredModel:
    return await asyncio.to_thread(store.fetch, name, parse_nodes(addresses), **how)


async def read(
    stub: Any, digest: str, path: str, offset: int
) -> tuple[pb.ArtefactFile, list[bytes]]:
    request = pb.ReadArtefactRequest(digest=digest, path=path, offset_bytes=offset)
    responses = [response async for response in stub.ReadArtefact(request, timeout=10)]
    return responses[0].file, [response.chunk for response in responses[1:]]
