"""Asks another node for its models and reads their files, blocking."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import grpc

from farthing.api.models.v1 import models_pb2 as pb
from farthing.api.models.v1 import models_pb2_grpc as pb_grpc
from farthing.inference.store.files import FileRecord
from farthing.inference.store.node_wire import RemoteModel, decode_artefact
from farthing.inference.store.nodes import Node
from farthing.inference.store.retrying import Interruption
from farthing.kit.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FarthingError,
    Internal,
    ResourceExhausted,
    Unavailable,
)
from farthing.kit.rpc.channel import decode_error, open_blocking_channel
from farthing.kit.rpc.status import FailedCall
from farthing.kit.rpc.tls import TlsFiles

_LIST_TIMEOUT_S = 10.0
# What may pass, at this node or at the next one.
_PASSING = (Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable)


class UnusableNode(Exception):
    """A node answers, and cannot give what was asked; `cause` says why."""

    def __init__(self, cause: FarthingError) -> None:
        super().__init__(cause.message)
        self.cause = cause


class NodeClient:
    """One node. Close it in the end."""

    def __init__(self, node: Node, tls: TlsFiles | None, *, stall_s: float) -> None:
        self.node, self._stall_s = node, stall_s
        self._channel = open_blocking_channel(node.address, tls=tls)
        self._stub = pb_grpc.ModelsServiceStub(self._channel)

    def list(self, *, name: str = "", digest: str = "") -> list[RemoteModel]:
        """What the node has. Its errors as it raised them, FailedPrecondition when it makes no sense."""
        request = pb.ListArtefactsRequest(name=name, digest=digest)
        try:
            answer = self._stub.ListArtefacts(request, timeout=_LIST_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self._explain(error) from error
        return [decode_artefact(artefact) for artefact in answer.artefacts]

    def read(self, digest: str, record: FileRecord, offset: int) -> Iterator[bytes]:
        """The file's bytes from `offset` on. Interruption when they end early, UnusableNode when that will not pass.

        A node that sends nothing for as long as a stall may last counts as gone.
        """
        request = pb.ReadArtefactRequest(digest=digest, path=record.path, offset_bytes=offset)
        call = self._stub.ReadArtefact(request)
        left = record.size_bytes - offset
        try:
            with _Watchdog(call, self._stall_s) as watchdog:
                for response in watchdog.follow():
                    if response.WhichOneof("event") == "file":
                        _require_same(response.file, record)
                        continue
                    left -= len(response.chunk)
                    if left < 0:
                        raise _broken("it sends more than the file has")
                    yield response.chunk
            if left:
                raise Interruption(
                    Unavailable(
                        f"{self.node.address} ended {left} bytes early",
                        reason="DOWNLOAD_FAILED",
                        metadata={"address": self.node.address},
                    )
                )
        except grpc.RpcError as error:
            found = self._explain(error)
            if isinstance(found, _PASSING):
                raise Interruption(found, found.retry_after_ms / 1000) from error
            raise UnusableNode(found) from error
        finally:
            call.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _explain(self, error: grpc.RpcError) -> FarthingError:
        found = decode_error(cast(FailedCall, error))
        if found.reason.startswith("GRPC_"):
            found.message = f"{self.node.address} does not answer ({found.message})"
        return found


class _Watchdog:
    """Cancels a call that nothing comes from. The time that the reader takes for itself does not count."""

    def __init__(self, call: Any, stall_s: float) -> None:
        self._call, self._stall_s = call, stall_s
        self._waiting_since_s: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def follow(self) -> Iterator[Any]:
        """The call's messages."""
        messages = iter(self._call)
        while True:
            self._waiting_since_s = time.monotonic()
            message = next(messages, None)
            self._waiting_since_s = None
            if message is None:
                return
            yield message

    def __enter__(self) -> _Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._stall_s / 4):
            since_s = self._waiting_since_s
            if since_s is not None and time.monotonic() - since_s > self._stall_s:
                self._call.cancel()
                return


def _require_same(file: pb.ArtefactFile, record: FileRecord) -> None:
    if (file.size_bytes, file.sha256) != (record.size_bytes, record.sha256):
        raise _broken(f"its {record.path} is another file than it listed")


def _broken(finding: str) -> UnusableNode:
    return UnusableNode(
        FailedPrecondition(
            f"the node cannot be used: {finding}; ask another one",
            reason="NODE_UNUSABLE",
            metadata={"finding": finding},
        )
    )
