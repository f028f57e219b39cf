"""Reads stored models again and compares them with the hashes they were stored under."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from farthing.inference.store.contents import Contents
from farthing.inference.store.files import (
    AddProgress,
    FileRecord,
    ProgressCallback,
    combine_digest,
    hash_file,
)
from farthing.kit.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading a model again found: `damage` says what is wrong, empty for a sound model.

    `names` is empty for a model that no name stands for, `digest` for a name that nobody can read.
    """

    names: tuple[str, ...]
    digest: str
    file_count: int
    size_bytes: int
    damage: tuple[str, ...]


def verify_models(
    contents: Contents, names: Collection[str], report: ProgressCallback
) -> list[Verdict]:
    """Every file of the named models, of all models when none is named. NotFound for a name that is not there."""
    owners: dict[str, list[str]] = {}
    verdicts = []
    for name in names or contents.list_names():
        try:
            owners.setdefault(contents.digest_of(name), []).append(name)
        except FailedPrecondition as error:
            verdicts.append(Verdict((name,), "", 0, 0, (error.message,)))
    if not names:
        owners |= {digest: [] for digest in contents.list_digests() if digest not in owners}
    total_bytes = sum(
        record.size_bytes for digest in owners for record in contents.records_of(digest)
    )
    done_bytes = 0
    for digest, their_names in owners.items():
        label = their_names[0] if their_names else digest[:12]

        def on_bytes(count: int, label: str = label) -> None:
            nonlocal done_bytes
            done_bytes += count
            report(AddProgress("verify", label, done_bytes, total_bytes))

        verdicts.append(_judge(contents, digest, tuple(their_names), on_bytes))
    return verdicts


def _judge(
    contents: Contents, digest: str, names: tuple[str, ...], on_bytes: Callable[[int], None]
) -> Verdict:
    folder, records = contents.folder(digest), contents.records_of(digest)
    damage = []
    if not records:
        damage.append("model.json is missing or damaged")
    elif combine_digest(records) != digest:
        damage.append("model.json is another model's")
    for record in records:
        if finding := _find_damage(folder / record.path, record, on_bytes):
            damage.append(f"{record.path} {finding}")
    size_bytes = sum(record.size_bytes for record in records)
    return Verdict(names, digest, len(records), size_bytes, tuple(damage))


def _find_damage(path: Path, record: FileRecord, on_bytes: Callable[[int], None]) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes != record.size_bytes:
            return f"has {size_bytes} bytes instead of {record.size_bytes}"
        found = hash_file(path, on_bytes)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return (
        "" if found == record.sha256 else f"has sha256 {found[:12]}…, not {record.sha256[:12]}…"
    )
