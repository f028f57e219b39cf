"""A file on its way: it grows over the lives of several processes and is hashed as it grows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from farthing.inference.store.files import CHUNK_BYTES, report_disk_errors, write_json
from farthing.kit.discovery.nearby import boot_id

_SYNC_EVERY_BYTES = 32 << 20


class PartFile:
    """What has come of a file. Made by `open_part`.

    After a killed process every byte written is still there. After a power cut only what was synced is certain: a note
    beside the file says how much that is, and under which boot of this machine it was written.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._digest = hashlib.sha256()
        self._size_bytes = self._synced_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much has come: where to go on."""
        return self._size_bytes

    @property
    def sha256(self) -> str:
        """Of what has come, in hex."""
        return self._digest.hexdigest()

    def append(self, data: bytes) -> None:
        """Adds the next bytes. ResourceExhausted when the disk is full; what came before stays."""
        with report_disk_errors(self._path):
            view = memoryview(data)
            while view:
                written = os.write(self._descriptor, view)
                self._digest.update(view[:written])
                self._size_bytes += written
                view = view[written:]
            if self._size_bytes - self._synced_bytes >= _SYNC_EVERY_BYTES:
                self.sync()

    def restart(self) -> None:
        """Throws away what has come: it belongs to another file."""
        with report_disk_errors(self._path):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._digest = hashlib.sha256()
            self._size_bytes = 0
            self.sync()

    def sync(self) -> None:
        """Makes sure of what has come."""
        with report_disk_errors(self._path):
            os.fsync(self._descriptor)
            write_json(_note(self._path), {"boot": boot_id(), "size_bytes": self._size_bytes})
            self._synced_bytes = self._size_bytes

    def adopt(self, on_bytes: Callable[[int], None]) -> None:
        """Takes up what an earlier process left, as far as it can be trusted. `on_bytes` hears of every chunk read."""
        with report_disk_errors(self._path):
            kept = _trusted_bytes(self._path)
            os.ftruncate(self._descriptor, kept)
            while self._size_bytes < kept:
                chunk = os.pread(
                    self._descriptor,
                    min(CHUNK_BYTES, kept - self._size_bytes),
                    self._size_bytes,
                )
                if not chunk:
                    break
                self._digest.update(chunk)
                self._size_bytes += len(chunk)
                on_bytes(len(chunk))
            os.lseek(self._descriptor, self._size_bytes, os.SEEK_SET)
            self.sync()


@contextmanager
def open_part(
    path: Path, on_bytes: Callable[[int], None] = lambda count: None
) -> Iterator[PartFile]:
    """The part at `path`, with what an earlier process left of it."""
    with report_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_writable(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        part = PartFile(path, descriptor)
        part.adopt(on_bytes)
        yield part
    finally:
        os.close(descriptor)


def drop_part(path: Path) -> None:
    """Removes a part with its note."""
    path.unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def _make_writable(path: Path) -> None:
    """A part that was whole and then not published is read-only; one that a stored model shares is not ours."""
    if path.exists() and not os.access(path, os.W_OK):
        if path.stat().st_nlink == 1:
            path.chmod(0o644)
        else:
            path.unlink()


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.synced")


def _trusted_bytes(path: Path) -> int:
    size_bytes = path.stat().st_size
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
        synced, boot = int(note["size_bytes"]), str(note["boot"])
    except FileNotFoundError:
        synced, boot = 0, ""
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    same_boot = bool(boot) and boot == boot_id()
    return size_bytes if same_boot else min(max(synced, 0), size_bytes)
