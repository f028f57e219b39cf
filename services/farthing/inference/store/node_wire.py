"""Between models.proto's messages and the store's values. What another node says is checked before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.models.v1 import models_pb2 as pb
from farthing.inference.store.artefact import CARD_NAME, MOST_CARD_BYTES
from farthing.inference.store.contents import StoredModel, is_digest
from farthing.inference.store.files import AddProgress, FileRecord, combine_digest
from farthing.inference.store.json_files import parse_object
from farthing.inference.store.plain_paths import place_inside
from farthing.kit.errors import FailedPrecondition

_MOST_FILE_COUNT = 10_000
_MOST_FILE_BYTES = 1 << 44


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model that another node has."""

    digest: str
    names: tuple[str, ...]
    format: str
    quantization: str
    size_bytes: int
    files: tuple[FileRecord, ...]
    card: dict[str, Any]
    source: str
    revision: str
    licence: str
    derived_from: dict[str, str]


def encode_artefact(model: StoredModel, names: Iterable[str]) -> pb.Artefact:
    """A stored model as other nodes see it."""
    provenance = model.provenance
    card = {**model.card, **({"measured": dict(model.measured)} if model.measured else {})}
    return pb.Artefact(
        digest=model.digest,
        names=sorted(names),
        format=model.format,
        quantization=model.facts.quantization if model.facts is not None else "",
        size_bytes=model.size_bytes,
        files=[encode_file(record) for record in model.files],
        card_json=json.dumps(card, ensure_ascii=False),
        provenance=pb.ArtefactProvenance(
            source=str(provenance.get("origin") or model.source),
            revision=str(provenance.get("revision", "")),
            add_time=_encode_time(provenance.get("add_time")),
            licence=str(provenance.get("licence", "")),
            derivation=_encode_derivation(model.derived_from),
        ),
    )


def encode_file(record: FileRecord) -> pb.ArtefactFile:
    """One file."""
    return pb.ArtefactFile(path=record.path, size_bytes=record.size_bytes, sha256=record.sha256)


def encode_progress(progress: AddProgress) -> pb.AddModelResponse:
    """A report while a model is added."""
    return pb.AddModelResponse(
        progress=pb.AddProgress(
            stage=progress.stage,
            detail=progress.detail,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
        )
    )


def decode_artefact(message: pb.Artefact) -> RemoteModel:
    """What another node has. FailedPrecondition when it cannot be a model: that node is broken, or no friend."""
    files = tuple(FileRecord(f.path, f.size_bytes, f.sha256) for f in message.files)
    finding = _find_fault(message, files)
    card: dict[str, Any] = {}
    if not finding:
        try:
            card = parse_object(message.card_json) if message.card_json else {}
        except ValueError as error:
            finding = f"its card {error}"
    if finding:
        raise FailedPrecondition(
            f"the node describes a model that cannot be one: {finding}; ask another node",
            reason="NODE_UNUSABLE",
            metadata={"digest": message.digest[:64], "finding": finding},
        )
    provenance = message.provenance
    return RemoteModel(
        digest=message.digest,
        names=tuple(message.names),
        format=message.format,
        quantization=message.quantization,
        size_bytes=sum(record.size_bytes for record in files),
        files=files,
        card=card,
        source=provenance.source[:1000],
        revision=provenance.revision[:200],
        licence=provenance.licence[:200],
        derived_from=_decode_derivation(provenance),
    )


def _find_fault(message: pb.Artefact, files: tuple[FileRecord, ...]) -> str:
    if not 0 < len(files) <= _MOST_FILE_COUNT:
        return f"it has {len(files)} files"
    if len(message.card_json.encode()) > MOST_CARD_BYTES:
        return "its card is larger than any"
    if message.format not in ("gguf", "onnx") or not message.names:
        return "it has no name or no known format"
    for record in files:
        if not 0 <= record.size_bytes <= _MOST_FILE_BYTES or not is_digest(record.sha256):
            return f"{record.path[:80]!r} has no usable size or hash"
        try:
            place_inside(Path(), record.path)
        except ValueError as error:
            return str(error)
    paths = {record.path for record in files}
    if len(paths) != len(files) or CARD_NAME in paths:
        return "a file's name is there twice, or the card's"
    if combine_digest(files) != message.digest:
        return "its digest is not that of its files"
    return ""


def _encode_derivation(derived: Mapping[str, Any]) -> pb.Derivation | None:
    if not derived:
        return None
    return pb.Derivation(
        name=str(derived.get("name", "")),
        digest=str(derived.get("digest", "")),
        root_digest=str(derived.get("root_digest", "")),
        quantization=str(derived.get("quantization", "")),
        tool=str(derived.get("tool", "")),
        host=str(derived.get("host", "")),
        make_time=_encode_time(derived.get("make_time")),
    )


def _decode_derivation(provenance: pb.ArtefactProvenance) -> dict[str, str]:
    if not provenance.HasField("derivation"):
        return {}
    one = provenance.derivation
    if not (is_digest(one.digest) and is_digest(one.root_digest)):
        return {}
    return {
        "name": one.name[:200],
        "digest": one.digest,
        "root_digest": one.root_digest,
        "quantization": one.quantization[:40],
        "tool": one.tool[:200],
        "host": one.host[:200],
        "make_time": one.make_time.ToJsonString() if one.HasField("make_time") else "",
    }


def _encode_time(text: object) -> Timestamp | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
