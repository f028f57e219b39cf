"""The model store: artefacts under their hash, names that point to them, nothing half-written in between."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farthing.inference.store.artefact import CARD_NAME, Artefact, find_artefact, read_card
from farthing.inference.store.facts import ModelFacts, ModelFormat
from farthing.inference.store.files import (
    AddProgress,
    FileRecord,
    ProgressCallback,
    combine_digest,
    copy_file,
    hold_lock,
    require_room,
    sync_folder,
    write_json,
)
from farthing.inference.store.hub import Hub
from farthing.inference.store.hub_files import parse_hub_id
from farthing.kit.clock import Clock, SystemClock
from farthing.kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model an engine can open: `path` is the GGUF file, or an ONNX model's folder or graph.

    `card` is the model card as far as there is one; `source` where the model came from.
    """

    name: str
    digest: str
    format: ModelFormat
    path: Path
    size_bytes: int
    facts: ModelFacts | None
    card: dict[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class _Origin:
    source: str
    revision: str
    artefact: Artefact


class ModelStore:
    """A store under `root` (made when missing). Safe for several processes at once."""

    def __init__(
        self, root: Path, *, hub: Hub | None = None, clock: Clock | None = None
    ) -> None:
        self._root = root.expanduser()
        self._artefacts = self._root / "sha256"
        self._names = self._root / "names"
        self._incoming = self._root / "incoming"
        self._hub = hub or Hub()
        self._clock = clock or SystemClock()

    def add(
        self,
        source: str | Path,
        name: str | None = None,
        *,
        replace: bool = False,
        progress: ProgressCallback | None = None,
    ) -> StoredModel:
        """Adds a GGUF file, an ONNX folder, or a hub model (`owner/repository[@revision][:file]`), checked.

        Adding the same model again changes nothing. A name that stands for another model is AlreadyExists
        unless `replace`. Corrupt, truncated or unsupported files raise InvalidArgument or Unimplemented.
        """
        report = progress or _ignore
        if name is not None:
            _require_name(name)
        self._incoming.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._root / "add.lock"), self._obtain(source, report) as origin:
            stored = self._publish(origin, name, replace, report)
        report(AddProgress("done", stored.name, stored.size_bytes, stored.size_bytes))
        return stored

    def list(self) -> tuple[StoredModel, ...]:
        """Every named model, in order of name."""
        if not self._names.is_dir():
            return ()
        return tuple(self.resolve(path.stem) for path in sorted(self._names.glob("*.json")))

    def resolve(self, name: str) -> StoredModel:
        """The model of a name. NotFound lists the names there are; FailedPrecondition when a file is damaged."""
        return self._open(name, self._digest_of(name))

    def locate(self, reference: str | Path) -> StoredModel:
        """The model of a path, hashed and checked now, or of a name in the store. Errors as `add` and `resolve`."""
        path = Path(reference).expanduser()
        if not path.exists():
            if len(path.parts) > 1 or path.suffix in (".gguf", ".onnx"):
                find_artefact(path)
            return self.resolve(str(reference))
        artefact = find_artefact(path)
        records = artefact.records()
        card = read_card(artefact)
        return StoredModel(
            name=str(card.get("name") or _slug(_plain_title(artefact))),
            digest=combine_digest(records),
            format=artefact.format,
            path=artefact.main,
            size_bytes=sum(record.size_bytes for record in records),
            facts=None,
            card=card,
            source=str(artefact.main),
        )

    def remove(self, name: str) -> None:
        """Removes a name, and the model's files when no other name needs them. NotFound as `resolve`."""
        with hold_lock(self._root / "add.lock"):
            digest = self._digest_of(name)
            (self._names / f"{name}.json").unlink()
            others = (
                json.loads(p.read_text(encoding="utf-8"))["digest"]
                for p in self._names.glob("*.json")
            )
            if digest not in others:
                shutil.rmtree(self._artefacts / digest, ignore_errors=True)

    def _digest_of(self, name: str) -> str:
        pointer = self._names / f"{name}.json"
        if not _NAME.fullmatch(name) or not pointer.is_file():
            known = ", ".join(sorted(p.stem for p in self._names.glob("*.json"))) or "none yet"
            raise NotFound(
                f"there is no model {name!r} in {self._root} (it has: {known}); add it with "
                "`farthing models add`, or give a path",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name},
            )
        return str(json.loads(pointer.read_text(encoding="utf-8"))["digest"])

    @contextmanager
    def _obtain(self, source: str | Path, report: ProgressCallback) -> Iterator[_Origin]:
        path = Path(source).expanduser()
        hub_id = parse_hub_id(str(source))
        if path.exists() or hub_id is None:
            yield _Origin(str(path.absolute()), "", find_artefact(path))
            return
        folder = self._incoming / _slug(str(hub_id))
        folder.mkdir(exist_ok=True)
        fetched = self._hub.fetch(hub_id, folder, report)
        try:
            yield _Origin(f"hub:{hub_id}", fetched.revision, find_artefact(fetched.main))
        finally:
            # Kept only when the download itself broke off, so that the next try resumes.
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(
        self, origin: _Origin, name: str | None, replace: bool, report: ProgressCallback
    ) -> StoredModel:
        artefact = origin.artefact
        if artefact.format == "gguf":
            artefact.check()  # costs one header: a bad file is refused before it is copied
        card = read_card(artefact)
        staging = self._incoming / "staging"
        shutil.rmtree(
            staging, ignore_errors=True
        )  # left by a process that died; we hold the lock
        try:
            records = self._copy(artefact, staging, report)
            _compare_card(artefact, card, records)
            digest = combine_digest(records)
            final = self._artefacts / digest
            copied = find_artefact(staging)
            report(AddProgress("check", digest, 0, 0))
            facts = copied.check()
            chosen = name or _slug(
                str(card.get("name") or facts.title or _plain_title(artefact))
            )
            self._require_free(chosen, digest, replace)
            provenance = {
                "source": origin.source,
                "revision": origin.revision,
                "add_time": self._clock.now().isoformat(),
                "digest": digest,
                "format": facts.format,
                "main": "" if facts.format == "onnx" else records[0].path,
                "facts": asdict(facts),
                "files": [asdict(record) for record in records],
            }
            if final.is_dir():
                self._refresh_card(final, card)
            else:
                write_json(staging / CARD_NAME, {**card, "provenance": provenance})
                self._artefacts.mkdir(exist_ok=True)
                staging.rename(final)
                sync_folder(self._artefacts)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._names.mkdir(exist_ok=True)
        write_json(self._names / f"{chosen}.json", {"digest": digest})
        return self._open(chosen, digest)

    def _copy(
        self, artefact: Artefact, staging: Path, report: ProgressCallback
    ) -> tuple[FileRecord, ...]:
        total_bytes = sum(path.stat().st_size for path in artefact.files)
        require_room(self._incoming, total_bytes)
        done_bytes = 0
        records = []
        for path in artefact.files:
            relative = artefact.relative(path)

            def on_bytes(count: int, relative: str = relative) -> None:
                nonlocal done_bytes
                done_bytes += count
                report(AddProgress("copy", relative, done_bytes, total_bytes))

            digest = copy_file(path, staging / relative, on_bytes)
            records.append(FileRecord(relative, (staging / relative).stat().st_size, digest))
        return tuple(records)

    def _refresh_card(self, final: Path, card: dict[str, Any]) -> None:
        """A newer card for the same artefact replaces the old one; where it came from stays as it was."""
        kept = json.loads((final / CARD_NAME).read_text(encoding="utf-8"))
        renewed = {**card, "provenance": kept["provenance"]}
        if card and renewed != kept:
            write_json(final / CARD_NAME, renewed)

    def _require_free(self, name: str, digest: str, replace: bool) -> None:
        _require_name(name)
        pointer = self._names / f"{name}.json"
        if replace or not pointer.is_file():
            return
        present = json.loads(pointer.read_text(encoding="utf-8"))["digest"]
        if present != digest:
            raise AlreadyExists(
                f"{name} is another model already (sha256 {present[:12]}…); choose another name, or replace it",
                reason="MODEL_NAME_TAKEN",
                metadata={"model": name, "digest": str(present)},
            )

    def _open(self, name: str, digest: str) -> StoredModel:
        folder = self._artefacts / digest
        try:
            card = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
            provenance = card.pop("provenance")
            files = [FileRecord(**record) for record in provenance["files"]]
            damaged = [
                f.path for f in files if (folder / f.path).stat().st_size != f.size_bytes
            ]
        except (OSError, ValueError, KeyError) as error:
            damaged = [str(error)]
        if damaged:
            raise FailedPrecondition(
                f"the stored model {name} is damaged ({', '.join(damaged)}); remove it and add it again",
                reason="MODEL_DAMAGED",
                metadata={"model": name, "digest": digest},
            )
        return StoredModel(
            name=name,
            digest=digest,
            format=provenance["format"],
            path=folder / provenance["main"],
            size_bytes=sum(f.size_bytes for f in files),
            facts=ModelFacts(**provenance["facts"]),
            card=card,
            source=provenance["source"],
        )


def add_model(
    root: Path,
    source: str | Path,
    name: str | None = None,
    *,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> StoredModel:
    """Adds a model to the store under `root`; see `ModelStore.add`."""
    return ModelStore(root).add(source, name, replace=replace, progress=progress)


def _ignore(progress: AddProgress) -> None:
    pass


def _plain_title(artefact: Artefact) -> str:
    return artefact.main.stem if artefact.format == "gguf" else artefact.folder.name


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name!r} is no model name; use 1 to 64 lower-case letters, digits, '.', '_' and '-', "
            "a letter or digit first",
            field="name",
            reason="MODEL_NAME_INVALID",
            metadata={"name": name},
        )


def _compare_card(
    artefact: Artefact, card: dict[str, Any], records: Sequence[FileRecord]
) -> None:
    """The card's own sha256 of each file, where it gives them, must hold."""
    published = card.get("files")
    published = published if isinstance(published, dict) else {}
    for path, record in zip(artefact.files, records, strict=True):
        entry = published.get(record.path)
        expected = entry.get("sha256") if isinstance(entry, dict) else None
        if isinstance(expected, str) and expected.lower() != record.sha256:
            raise InvalidArgument(
                f"{path.name} has sha256 {record.sha256[:12]}…, its model card says {expected[:12]}…; "
                "fetch it again",
                field="source",
                reason="MODEL_HASH_MISMATCH",
                metadata={"path": str(path)},
            )
