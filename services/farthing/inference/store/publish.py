"""Makes a model of files: copied or linked, hashed, checked, then visible under its name in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from farthing.inference.store.artefact import CARD_NAME, Artefact, find_artefact, read_card
from farthing.inference.store.contents import Contents, StoredModel, require_name, slug
from farthing.inference.store.facts import ModelFacts
from farthing.inference.store.files import (
    AddProgress,
    FileRecord,
    ProgressCallback,
    combine_digest,
    copy_file,
    hash_file,
    report_disk_errors,
    require_room,
    sync_folder,
    write_json,
)
from farthing.inference.store.sharing import link_stored, take_over
from farthing.inference.store.workplaces import discard, private_folder
from farthing.kit.clock import Clock
from farthing.kit.errors import AlreadyExists, InvalidArgument

MakeRoom = Callable[[int], None]
"""Sees to it that so many bytes may come on top, or raises."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A model on disk that is to be stored, and all that is known of where it came from.

    `owned` files lie in the store's own folder for downloads: they become the stored ones without being copied.
    `hashes` are those proven on the way, by path. `card` stands in where no model.json lies beside the model.
    """

    source: str
    artefact: Artefact
    revision: str = ""
    owned: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model that is complete and checked, in a folder that can be renamed into its place.

    `own_bytes` is what it adds to the store: files that others have already add nothing.
    """

    folder: Path
    records: tuple[FileRecord, ...]
    facts: ModelFacts
    card: dict[str, Any]
    own_bytes: int

    @property
    def digest(self) -> str:
        return combine_digest(self.records)


class Publisher:
    """Publishes into one store."""

    def __init__(self, contents: Contents, clock: Clock) -> None:
        self._contents, self._clock = contents, clock

    def publish(
        self,
        origin: Origin,
        name: str | None,
        *,
        replace: bool,
        make_room: MakeRoom,
        report: ProgressCallback,
    ) -> StoredModel:
        """Stores the model under `name`, or under its own; see ModelStore.add for the errors."""
        contents, artefact = self._contents, origin.artefact
        if artefact.format == "gguf":
            artefact.check()  # costs one header: a bad file is refused before it is copied
        with private_folder(contents, "staging") as place:
            prepared = self._prepare(origin, place / "files", report)
            chosen = name or slug(
                str(prepared.card.get("name") or prepared.facts.title or origin.title)
            )
            require_name(chosen)
            sound = is_sound(contents, prepared.digest)
            with contents.lock():
                self._require_free(chosen, prepared.digest, replace)
                if sound and contents.folder(prepared.digest).is_dir():
                    self._refresh_card(prepared.digest, prepared.card, origin.measured)
                else:
                    make_room(prepared.own_bytes)
                    self._move_in(prepared, origin)
                contents.point(chosen, prepared.digest)
            stored = contents.open(chosen, prepared.digest)
        report(AddProgress("done", stored.name, stored.size_bytes, stored.size_bytes))
        return stored

    def _prepare(self, origin: Origin, staging: Path, report: ProgressCallback) -> _Prepared:
        artefact = origin.artefact
        card = dict(origin.card) if origin.card is not None else read_card(artefact)
        with report_disk_errors(staging):
            staging.mkdir()
        records = self._fill(origin, staging, report)
        _compare_card(artefact, card, records)
        own_bytes = sum(
            record.size_bytes
            for record in records
            if not self._share(staging / record.path, record)
        )
        report(AddProgress("check", combine_digest(records), 0, 0))
        facts = find_artefact(staging).check()
        return _Prepared(staging, records, facts, card, own_bytes)

    def _fill(
        self, origin: Origin, staging: Path, report: ProgressCallback
    ) -> tuple[FileRecord, ...]:
        artefact = origin.artefact
        total_bytes = sum(path.stat().st_size for path in artefact.files)
        if not origin.owned:
            require_room(staging, total_bytes)
        done_bytes = 0
        records = []
        for path in artefact.files:
            relative = artefact.relative(path)

            def on_bytes(count: int, relative: str = relative) -> None:
                nonlocal done_bytes
                done_bytes += count
                report(AddProgress("copy", relative, done_bytes, total_bytes))

            target = staging / relative
            if origin.owned:
                sha256 = origin.hashes.get(relative) or hash_file(path, on_bytes)
                take_over(path, target)
            else:
                sha256 = copy_file(path, target, on_bytes)
            records.append(FileRecord(relative, target.stat().st_size, sha256))
        return tuple(records)

    def _share(self, path: Path, record: FileRecord) -> bool:
        """Lets the file be one with a stored file of the same content, if there is one and it is whole."""
        if link_stored(self._contents, record.sha256, record.size_bytes, path):
            return True
        with report_disk_errors(path):
            path.chmod(0o444)  # what is stored under its hash must not change
        return False

    def _move_in(self, prepared: _Prepared, origin: Origin) -> None:
        contents = self._contents
        main = "" if prepared.facts.format == "onnx" else prepared.records[0].path
        card = {key: value for key, value in prepared.card.items() if key != "measured"}
        document = {
            **card,
            **({"measured": dict(origin.measured)} if origin.measured else {}),
            "provenance": {
                "source": origin.source,
                "revision": origin.revision,
                "add_time": self._clock.now().isoformat(),
                "licence": prepared.facts.licence or _licence_of(card),
                **origin.provenance,
                "digest": prepared.digest,
                "format": prepared.facts.format,
                "main": main,
                "facts": asdict(prepared.facts),
                "files": [asdict(record) for record in prepared.records],
            },
        }
        final = contents.folder(prepared.digest)
        with report_disk_errors(final):
            write_json(prepared.folder / CARD_NAME, document)
            for folder, _, _ in os.walk(prepared.folder):
                sync_folder(Path(folder))
            contents.artefacts.mkdir(exist_ok=True)
            trash = discard(contents, final) if final.exists() else None
            prepared.folder.rename(final)
            sync_folder(contents.artefacts)
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)

    def _refresh_card(
        self, digest: str, card: Mapping[str, Any], measured: Mapping[str, Any]
    ) -> None:
        """A newer card for the same artefact replaces the old one; where it came from stays as it was."""
        kept = self._contents.read_document(digest)
        own = kept.get("measured") or dict(measured)
        renewed = {
            **{key: value for key, value in card.items() if key != "measured"},
            **({"measured": own} if own else {}),
            "provenance": kept["provenance"],
        }
        if card and renewed != kept:
            write_json(self._contents.folder(digest) / CARD_NAME, renewed)

    def _require_free(self, name: str, digest: str, replace: bool) -> None:
        present = self._contents.pointers().get(name)
        if replace or present is None or present == digest:
            return
        raise AlreadyExists(
            f"{name} is another model already (sha256 {present[:12]}…); choose another name, or replace it",
            reason="MODEL_NAME_TAKEN",
            metadata={"model": name, "digest": present},
        )


def is_sound(contents: Contents, digest: str) -> bool:
    """Whether the artefact is there with all its files, as they were: reads all of it."""
    records, folder = contents.records_of(digest), contents.folder(digest)
    try:
        return combine_digest(records) == digest and all(
            hash_file(folder / record.path) == record.sha256 for record in records
        )
    except OSError:
        return False


def _licence_of(card: Mapping[str, Any]) -> str:
    for key in ("license", "licence"):
        if isinstance(value := card.get(key), str):
            return value[:200]
    return ""


def _compare_card(
    artefact: Artefact, card: Mapping[str, Any], records: Sequence[FileRecord]
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
