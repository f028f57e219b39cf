"""Fetches a model from the first node that has it; when one fails the next goes on from the byte reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farthing.inference.store.artefact import find_artefact
from farthing.inference.store.bandwidth import Throttle
from farthing.inference.store.contents import Contents
from farthing.inference.store.files import (
    AddProgress,
    FileRecord,
    ProgressCallback,
    require_room,
)
from farthing.inference.store.holders import Holders
from farthing.inference.store.node_client import UnusableNode
from farthing.inference.store.node_wire import RemoteModel
from farthing.inference.store.nodes import Node, node_source
from farthing.inference.store.partial import PartFile, open_part
from farthing.inference.store.plain_paths import place_inside
from farthing.inference.store.publish import Origin
from farthing.inference.store.retrying import Interruption, Retrying
from farthing.inference.store.sharing import link_stored
from farthing.inference.store.workplaces import shared_folder, used_up
from farthing.kit.errors import InvalidArgument
from farthing.kit.rpc.tls import TlsFiles


class NodeSources:
    """Fetches from nodes in the order given."""

    def __init__(
        self,
        contents: Contents,
        retrying: Retrying,
        make_throttle: Callable[[], Throttle],
        tls: TlsFiles | None,
    ) -> None:
        self._contents, self._retrying = contents, retrying
        self._make_throttle, self._tls = make_throttle, tls

    @contextmanager
    def obtain(
        self, name: str, nodes: Sequence[Node], report: ProgressCallback
    ) -> Iterator[Origin]:
        """The model as the first node has it that has the name; on disk while the block runs.

        NotFound when no node has it; the last node's error when none answers.
        """
        with Holders(nodes, self._tls, self._retrying.rules.stall_s) as holders:
            model = holders.find(name)
            with shared_folder(self._contents, f"fetch-{model.digest[:24]}") as folder:
                transfer = _Transfer(
                    self._contents, holders, model, self._retrying, self._make_throttle()
                )
                transfer.run(folder / "model", report)
                main = folder / "model"
                if model.format == "gguf":
                    main = place_inside(main, model.files[0].path)
                with used_up(folder):
                    yield Origin(
                        source=node_source(holders.client.node, name),
                        artefact=find_artefact(main),
                        revision=model.revision,
                        owned=True,
                        hashes={record.path: record.sha256 for record in model.files},
                        card=model.card,
                        measured=_measured_of(model),
                        provenance=_provenance_of(model),
                        title=name,
                    )


class _Transfer:
    """Brings one artefact's files into a folder."""

    def __init__(
        self,
        contents: Contents,
        holders: Holders,
        model: RemoteModel,
        retrying: Retrying,
        throttle: Throttle,
    ) -> None:
        self._contents, self._holders, self._model = contents, holders, model
        self._retrying, self._throttle = retrying, throttle
        self._before_bytes = 0

    def run(self, folder: Path, report: ProgressCallback) -> None:
        """All files, whole and compared. What the store has already is not fetched."""
        missing: list[tuple[FileRecord, Path]] = []
        for record in self._model.files:
            path = place_inside(folder, record.path)
            if link_stored(self._contents, record.sha256, record.size_bytes, path):
                self._before_bytes += record.size_bytes
            else:
                missing.append((record, path))
        for record, path in missing:
            self._fetch(record, path, report)
            self._before_bytes += record.size_bytes

    def _fetch(self, record: FileRecord, path: Path, report: ProgressCallback) -> None:
        checking = AddProgress("check", record.path, 0, 0)
        with open_part(path, lambda count: report(checking)) as part:
            require_room(path.parent, record.size_bytes - part.size_bytes)
            for _ in range(self._holders.count + 1):
                self._retrying.run(
                    lambda: self._attempt(record, part, report), lambda: part.size_bytes, report
                )
                part.sync()
                if (part.size_bytes, part.sha256) == (record.size_bytes, record.sha256):
                    return
                part.restart()
                self._holders.rotate()
        raise InvalidArgument(
            f"{record.path} came out other than listed, from every node that has it; verify the model there "
            "(`farthing models verify`)",
            field="source",
            reason="MODEL_HASH_MISMATCH",
            metadata={"path": record.path, "digest": self._model.digest},
        )

    def _attempt(self, record: FileRecord, part: PartFile, report: ProgressCallback) -> None:
        if part.size_bytes > record.size_bytes:
            part.restart()
        try:
            chunks = self._holders.client.read(self._model.digest, record, part.size_bytes)
            for chunk in chunks:
                part.append(chunk)
                done_bytes = self._before_bytes + part.size_bytes
                report(AddProgress("download", record.path, done_bytes, self._model.size_bytes))
                self._throttle.pay(len(chunk))
        except Interruption:
            self._holders.rotate()
            raise
        except UnusableNode as error:
            self._holders.drop(error.cause)
            raise Interruption(error.cause) from error


def _measured_of(model: RemoteModel) -> Mapping[str, Any]:
    measured = model.card.get("measured")
    return measured if isinstance(measured, dict) else {}


def _provenance_of(model: RemoteModel) -> dict[str, Any]:
    return {
        "origin": model.source,
        "licence": model.licence,
        **({"derived_from": model.derived_from} if model.derived_from else {}),
    }
