"""Serves a node's model store: reading is open to peers and bounded, changing needs an administrator's key."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from io import FileIO
from typing import Any

import grpc

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.core.card import Canary
from farthing.inference.residents import Residents, Wish
from farthing.inference.store.adding import AddJob
from farthing.inference.store.contents import StoredModel, is_name
from farthing.inference.store.files import FileRecord
from farthing.inference.store.node_wire import encode_artefact, encode_file, encode_progress
from farthing.inference.store.sending import SendingRate, caller_of
from farthing.inference.store.store import ModelStore
from farthing.kit.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from farthing.kit.rpc import context as call_context

_log = logging.getLogger(__name__)
_Context = grpc.aio.ServicerContext[Any, Any]
_RETRY_MS = 2_000
_LONGEST_NAME = 128

RequireAdmin = Callable[[bytes], Awaitable[None]]
"""Raises unless the key with this SHA-256 is an administrator's; `clients.principals.PrincipalResolver` has one."""


@dataclass(frozen=True, slots=True)
class ServingLimits:
    """How much of the link others may have: bytes a second, 0 for no limit, and streams at once."""

    bytes_per_s: int = 0
    caller_bytes_per_s: int = 0
    reader_count: int = 16


class ModelsServicer(pb_grpc.ModelsServiceServicer):
    """See models.proto. Add it with `RpcServer.add(…, end_streams=servicer.end_streams)`."""

    def __init__(
        self,
        store: ModelStore,
        require_admin: RequireAdmin,
        limits: ServingLimits,
        *,
        residents: Residents | None = None,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Without `residents` the node has a store and serves none of it."""
        self._store, self._require_admin, self._residents = store, require_admin, residents
        self._rate = SendingRate(limits.bytes_per_s, limits.caller_bytes_per_s, now_s, sleep)
        self._free_readers = limits.reader_count
        self._job: AddJob | None = None
        self._stopping = False

    def end_streams(self) -> None:
        """Ends what is being sent and added: callers go on elsewhere, or later."""
        self._stopping = True
        if self._job is not None:
            self._job.cancel()

    async def ListArtefacts(
        self, request: pb.ListArtefactsRequest, context: _Context
    ) -> pb.ListArtefactsResponse:
        """See models.proto."""
        models = await asyncio.to_thread(self._store.list)
        owners: dict[str, list[StoredModel]] = {}
        for model in models:
            owners.setdefault(model.digest, []).append(model)
        return pb.ListArtefactsResponse(
            artefacts=[
                encode_artefact(same[0], [model.name for model in same])
                for digest, same in sorted(owners.items())
                if request.digest in ("", digest)
                and (not request.name or any(m.name == request.name for m in same))
            ]
        )

    async def ReadArtefact(
        self, request: pb.ReadArtefactRequest, context: _Context
    ) -> AsyncGenerator[pb.ReadArtefactResponse]:
        """See models.proto."""
        file, record = await asyncio.to_thread(self._open, request)
        with file:
            if self._free_readers <= 0:
                raise ResourceExhausted(
                    "as many models as allowed are being read here; try another node, or later",
                    reason="TOO_MANY_READERS",
                    retry_after_ms=_RETRY_MS,
                )
            self._free_readers -= 1
            caller = caller_of(context)
            try:
                yield pb.ReadArtefactResponse(file=encode_file(record))
                offset = request.offset_bytes
                while offset < record.size_bytes:
                    chunk = await self._next_chunk(file, offset, caller)
                    yield pb.ReadArtefactResponse(chunk=chunk)
                    offset += len(chunk)
            finally:
                self._free_readers += 1

    async def AddModel(
        self, request: pb.AddModelRequest, context: _Context
    ) -> AsyncGenerator[pb.AddModelResponse]:
        """See models.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        if self._stopping or self._job is not None:
            raise ResourceExhausted(
                "another model is being added here; wait for it",
                reason="STORE_BUSY",
                retry_after_ms=_RETRY_MS,
            )
        _log.info("adding a model", extra={"source": request.source.partition("?")[0]})
        job = self._job = AddJob(
            lambda report: self._store.add(
                request.source,
                request.name or None,
                replace=request.replace,
                sha256=request.sha256,
                evict=request.evict,
                progress=report,
                local=False,
            ),
            on_end=self._forget_job,
        )
        try:
            async for progress in job.progress():
                yield encode_progress(progress)
            stored = await job.result()
        finally:
            job.cancel()
        yield pb.AddModelResponse(artefact=encode_artefact(stored, [stored.name]))

    async def RemoveModel(
        self, request: pb.RemoveModelRequest, context: _Context
    ) -> pb.RemoveModelResponse:
        """See models.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        freed = await asyncio.to_thread(self._store.remove, request.name, force=request.force)
        _log.info("removed a model", extra={"model": request.name})
        return pb.RemoveModelResponse(freed_bytes=freed.freed_bytes)

    async def LoadModel(
        self, request: pb.LoadModelRequest, context: _Context
    ) -> pb.LoadModelResponse:
        """See models.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        if not is_name(request.model):
            raise InvalidArgument(
                f"model is {request.model[:200]!r}; name a model of this node's store, as"
                " `farthing models list --node` shows them",
                field="model",
            )
        if not (request.name.isprintable() and len(request.name) <= _LONGEST_NAME):
            raise InvalidArgument(
                f"name is not printable or longer than {_LONGEST_NAME} characters", field="name"
            )
        if not 0 <= request.least_canary_ratio <= 1:
            raise InvalidArgument(
                f"least_canary_ratio is {request.least_canary_ratio}; use 0..1",
                field="least_canary_ratio",
            )
        loaded = await self._serving().load(
            Wish(
                request.model,
                lambda: self._store.take(request.model),
                request.name,
                request.swap,
                [Canary(one.prompt, one.answer) for one in request.canaries],
                request.least_canary_ratio or 1.0,
            )
        )
        ready = loaded.engine.ready
        return pb.LoadModelResponse(
            name=ready.model.name,
            digest=ready.model.digest,
            unloaded=loaded.unloaded,
            memory_bytes=ready.weights_bytes + ready.kv_bytes,
        )

    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: _Context
    ) -> pb.UnloadModelResponse:
        """See models.proto."""
        await self._require_admin(call_context.current().require_key_digest())
        await self._serving().unload(request.name)
        return pb.UnloadModelResponse()

    def _serving(self) -> Residents:
        if self._residents is None:
            raise Unimplemented("this node stores models and serves none", reason="NOT_SERVING")
        return self._residents

    def _forget_job(self) -> None:
        self._job = None

    async def _next_chunk(self, file: FileIO, offset: int, caller: str) -> bytes:
        size = self._rate.chunk_bytes
        chunk = await asyncio.to_thread(os.pread, file.fileno(), size, offset)
        await self._rate.pay(caller, len(chunk))
        if not chunk or self._stopping:
            raise Unavailable(
                "the node stops, or the file became shorter; go on at another one, or later",
                reason="CLOSING",
                retry_after_ms=_RETRY_MS,
            )
        return chunk

    def _open(self, request: pb.ReadArtefactRequest) -> tuple[FileIO, FileRecord]:
        contents = self._store.contents
        records = {}
        if request.digest in contents.pointers().values():
            records = {record.path: record for record in contents.records_of(request.digest)}
        record = records.get(request.path)
        if record is None:
            raise NotFound(
                f"there is no file {request.path[:200]!r} of {request.digest[:64]!r} here; ListArtefacts says what is",
                reason="MODEL_NOT_FOUND",
                metadata={"digest": request.digest[:64], "path": request.path[:200]},
            )
        if not 0 <= request.offset_bytes <= record.size_bytes:
            raise InvalidArgument(
                f"offset_bytes is {request.offset_bytes}; the file has {record.size_bytes}",
                field="offset_bytes",
            )
        try:
            file = FileIO(contents.folder(request.digest) / record.path)
        except OSError:
            raise _damaged(request) from None
        if os.fstat(file.fileno()).st_size != record.size_bytes:
            file.close()
            raise _damaged(request)
        return file, record


def _damaged(request: pb.ReadArtefactRequest) -> FailedPrecondition:
    return FailedPrecondition(
        f"{request.path[:200]} is damaged on this node; read it elsewhere",
        reason="MODEL_DAMAGED",
        metadata={"digest": request.digest, "path": request.path[:200]},
    )
