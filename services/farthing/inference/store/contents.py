"""What lies in a model store's folder, read without a lock: names, models with their cards, files shared by several."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from farthing.inference.store.artefact import CARD_NAME
from farthing.inference.store.facts import ModelFacts, ModelFormat
from farthing.inference.store.files import FileRecord, hold_lock, write_json
from farthing.kit.errors import FailedPrecondition, FarthingError, InvalidArgument, NotFound

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model an engine can open: `path` is the GGUF file, or an ONNX model's folder or graph.

    `card` is the model card as far as there is one, with what was measured here in place of what it claimed. `source`
    is where the model came from, `provenance` all that is known of that, `measured` what `farthing models measure`
    found.
    """

    name: str
    digest: str
    format: ModelFormat
    path: Path
    size_bytes: int
    facts: ModelFacts | None
    card: dict[str, Any]
    source: str
    files: tuple[FileRecord, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def derived_from(self) -> Mapping[str, Any]:
        """The model this one was quantized from, {} when it was not made here."""
        return self.provenance.get("derived_from") or {}

    @property
    def root_digest(self) -> str:
        """The digest that all variants of one model share: of the one at the beginning."""
        return str(self.derived_from.get("root_digest") or self.digest)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in the store: its model, or what is wrong with it."""

    name: str
    digest: str
    model: StoredModel | None
    damage: str = ""


class Contents:
    """Reads a store's folder. A model is there or not, never in part: folders and names come and go by renaming."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artefacts = root / "sha256"
        self.names = root / "names"
        self.incoming = root / "incoming"
        self.answers = root / "answers"
        self.holds = root / "holds"

    def lock(self) -> AbstractContextManager[None]:
        """Held by whoever changes names or artefacts, for moments only."""
        return hold_lock(self.root / "add.lock")

    def folder(self, digest: str) -> Path:
        """Where an artefact's files are."""
        return self.artefacts / digest

    def list_names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(p.stem for p in self.names.glob("*.json") if _NAME.fullmatch(p.stem))

    def pointer(self, name: str) -> Path:
        """The file that says what a name stands for."""
        return self.names / f"{name}.json"

    def point(self, name: str, digest: str) -> None:
        """Makes a name stand for an artefact."""
        self.names.mkdir(exist_ok=True)
        write_json(self.pointer(name), {"digest": digest})

    def digest_of(self, name: str) -> str:
        """What a name stands for. NotFound lists the names there are."""
        digest = self._read_pointer(name) if _NAME.fullmatch(name) else None
        if digest is None:
            known = ", ".join(self.list_names()) or "none yet"
            raise NotFound(
                f"there is no model {name!r} in {self.root} (it has: {known}); add it with "
                "`farthing models add`, or give a path",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name},
            )
        if not _DIGEST.fullmatch(digest):
            raise damaged_model(name, digest, f"{self.pointer(name)} is not readable")
        return digest

    def pointers(self) -> dict[str, str]:
        """The digest behind every name; names that cannot be read are left out."""
        found = {name: self._read_pointer(name) for name in self.list_names()}
        return {name: d for name, d in found.items() if d is not None and _DIGEST.fullmatch(d)}

    def list_digests(self) -> list[str]:
        """Every artefact, named or not."""
        return sorted(p.name for p in self.artefacts.glob("*") if _DIGEST.fullmatch(p.name))

    def survey(self) -> list[Entry]:
        """Every name with its model, or with what is wrong; one that goes away meanwhile is left out."""
        entries = []
        for name in self.list_names():
            digest = ""
            try:
                digest = self.digest_of(name)
                entries.append(Entry(name, digest, self.open(name, digest)))
            except NotFound:
                continue
            except FarthingError as error:
                entries.append(Entry(name, digest, None, error.message))
        return entries

    def read_document(self, digest: str) -> dict[str, Any]:
        """The whole model.json of an artefact. OSError, ValueError when there is none."""
        text = (self.folder(digest) / CARD_NAME).read_text(encoding="utf-8")
        document = json.loads(text)
        if not isinstance(document, dict) or not isinstance(document.get("provenance"), dict):
            raise ValueError(f"{CARD_NAME} has no provenance")
        return document

    def open(self, name: str, digest: str) -> StoredModel:
        """The model of an artefact. FailedPrecondition when a file is missing or has another size."""
        folder = self.folder(digest)
        try:
            card = self.read_document(digest)
            provenance, measured = card.pop("provenance"), card.pop("measured", {})
            files = read_records(provenance)
            damaged = [
                f.path for f in files if (folder / f.path).stat().st_size != f.size_bytes
            ]
            if not damaged:
                return StoredModel(
                    name=name,
                    digest=digest,
                    format=provenance["format"],
                    path=folder / provenance["main"],
                    size_bytes=sum(f.size_bytes for f in files),
                    facts=_read_facts(provenance["facts"]),
                    card=_apply_measured(card, measured),
                    source=str(provenance["source"]),
                    files=files,
                    provenance=provenance,
                    measured=measured,
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged = [str(error)]
        raise damaged_model(name, digest, ", ".join(damaged))

    def records_of(self, digest: str) -> tuple[FileRecord, ...]:
        """The files an artefact should have; () when that cannot be read."""
        try:
            return read_records(self.read_document(digest)["provenance"])
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def find_files(self, sha256: str, size_bytes: int) -> Iterator[Path]:
        """Stored files that should have this content; `size_bytes` 0 is unknown."""
        for digest in self.list_digests():
            for record in self.records_of(digest):
                if record.sha256 == sha256 and size_bytes in (0, record.size_bytes):
                    yield self.folder(digest) / record.path

    def _read_pointer(self, name: str) -> str | None:
        try:
            value = json.loads(self.pointer(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return ""
        return str(value.get("digest", "")) if isinstance(value, dict) else ""


def is_name(text: str) -> bool:
    """Whether a text can be a model's name."""
    return _NAME.fullmatch(text) is not None


def require_name(name: str) -> None:
    """InvalidArgument unless `name` can be a model's."""
    if not is_name(name):
        raise InvalidArgument(
            f"{name!r} is no model name; use 1 to 64 lower-case letters, digits, '.', '_' and '-', "
            "a letter or digit first",
            field="name",
            reason="MODEL_NAME_INVALID",
            metadata={"name": name},
        )


def slug(text: str) -> str:
    """A model name made of a text."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


def is_digest(text: str) -> bool:
    """Whether a text is a sha256 in hex."""
    return _DIGEST.fullmatch(text) is not None


def read_records(provenance: Mapping[str, Any]) -> tuple[FileRecord, ...]:
    """The files of a provenance. KeyError, TypeError when it has none."""
    return tuple(FileRecord(**record) for record in provenance["files"])


def _read_facts(values: Mapping[str, Any]) -> ModelFacts:
    known = {one.name for one in fields(ModelFacts)}
    return ModelFacts(**{key: value for key, value in values.items() if key in known})


def _apply_measured(card: dict[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The card with our own figures: they speak of this artefact alone, so what it says of several goes."""
    if not measured.get("task_quality"):
        return card
    kept = {key: value for key, value in card.items() if key != "artefacts"}
    kept["task_quality"] = measured["task_quality"]
    if measured.get("bytes_per_token"):
        kept["bytes_per_token"] = measured["bytes_per_token"]
    return kept


def damaged_model(name: str, digest: str, finding: str) -> FailedPrecondition:
    """The error that says what is wrong with a stored model."""
    return FailedPrecondition(
        f"the stored model {name} is damaged ({finding}); add it again, that repairs it",
        reason="MODEL_DAMAGED",
        metadata={"model": name, "digest": digest},
    )
