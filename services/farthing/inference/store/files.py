"""Copies, hashes and publishes files so that a crash or a power cut never leaves half a model under its name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from farthing.kit.errors import ResourceExhausted

_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class AddProgress:
    """How far adding a model has come: bytes of this stage, of the whole model."""

    stage: Literal["download", "copy", "check", "done"]
    detail: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[AddProgress], None]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a model: its path inside the model's folder, size and sha256 in hex."""

    path: str
    size_bytes: int
    sha256: str


def hash_file(path: Path) -> str:
    """sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def combine_digest(records: Sequence[FileRecord]) -> str:
    """The digest of a model: of its one file, or of the sorted list of its files' digests and paths."""
    if len(records) == 1:
        return records[0].sha256
    lines = sorted(f"{record.sha256}  {record.path}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
    """Copies and syncs a file; sha256 of what was written, in hex. `on_bytes` hears of every chunk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
            on_bytes(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises ResourceExhausted when the disk under `folder` has no room for the bytes."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ResourceExhausted(
            f"the model needs {needed_bytes} bytes and {folder} has {free_bytes} free; make room or set "
            "FARTHING_DATA_DIR to a larger disk",
            reason="DISK_FULL",
            metadata={"needed_bytes": str(needed_bytes), "free_bytes": str(free_bytes)},
        )


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replaces a JSON file in one step: readers see the old text or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Waits for, then holds, an exclusive lock that a killed process gives up by itself."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
