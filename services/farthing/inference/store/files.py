"""Copies, hashes and publishes files so that a crash or a power cut never leaves half a model under its name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from farthing.kit.errors import PermissionDenied, ResourceExhausted, Unavailable

CHUNK_BYTES = 4 << 20
# No room, no room for this user, and a file larger than this process or file system may have.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Stage = Literal[
    "download", "unpack", "copy", "check", "quantize", "measure", "verify", "wait", "done"
]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True, slots=True)
class AddProgress:
    """How far work on a model has come: bytes of this stage, of all of it; 0 in all for unknown.

    The stage "wait" is a pause before another try; "quantize" counts tensors and "measure" tasks instead of bytes.
    """

    stage: Stage
    detail: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[AddProgress], None]


def ignore_progress(progress: AddProgress) -> None:
    """For callers that need not know."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a model: its path inside the model's folder, size and sha256 in hex."""

    path: str
    size_bytes: int
    sha256: str


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """sha256 of a file in hex; `on_bytes` hears of every chunk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest()


def combine_digest(records: Sequence[FileRecord]) -> str:
    """The digest of a model: of its one file, or of the sorted list of its files' digests and paths."""
    if len(records) == 1:
        return records[0].sha256
    lines = sorted(f"{record.sha256}  {record.path}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None]) -> str:
    """Copies and syncs a file; sha256 of what was written, in hex. `on_bytes` hears of every chunk.

    PermissionDenied when the source may not be read, ResourceExhausted when the disk is full.
    """
    try:
        reader = source.open("rb")
    except OSError as error:
        raise unreadable(source, error) from None
    digest = hashlib.sha256()
    with reader, report_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as writer:
            for chunk in _read_chunks(reader, source):
                digest.update(chunk)
                writer.write(chunk)
                on_bytes(len(chunk))
            writer.flush()
            os.fsync(writer.fileno())
    return digest.hexdigest()


def _read_chunks(reader: BinaryIO, source: Path) -> Iterator[bytes]:
    while True:
        try:
            chunk = reader.read(CHUNK_BYTES)
        except OSError as error:
            raise unreadable(source, error) from None
        if not chunk:
            return
        yield chunk


def unreadable(path: Path, error: OSError) -> PermissionDenied:
    """The error for a file or folder that cannot be read."""
    return PermissionDenied(
        f"{path} cannot be read ({error.strerror}); allow this user to read it",
        reason="MODEL_PATH_UNREADABLE",
        metadata={"path": str(path)},
    )


@contextmanager
def report_disk_errors(path: Path) -> Iterator[None]:
    """Turns what a disk refuses while `path` is written into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceExhausted(
                f"the disk is full ({error.strerror} at {path}); make room (`farthing models gc` frees what nobody "
                "needs) and run the same command again",
                reason="DISK_FULL",
                metadata={"path": str(path)},
            ) from error
        raise Unavailable(
            f"{path} cannot be written ({error.strerror}); check the disk and its permissions",
            reason="STORE_WRITE_FAILED",
            metadata={"path": str(path)},
        ) from error


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
    with report_disk_errors(path):
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
    with report_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds a lock on the file; False when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
