"""Unpacks tar and zip archives from strangers: plain files inside one folder, of a bounded size, or nothing at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from farthing.inference.store.files import report_disk_errors, require_room
from farthing.inference.store.plain_paths import place_inside
from farthing.kit.errors import FarthingError, InvalidArgument

_CHUNK_BYTES = 1 << 20
# Read at once by the libraries: names and directories of archives. Larger ones want to exhaust the memory.
_LARGEST_READ_BYTES = 32 << 20
_TAR_MAGIC_PLACE = 257
# What one system packs beside every file and no other one needs.
_FOREIGN = "__MACOSX/"
_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": lambda file: bz2.BZ2File(file),
    b"\xfd7zXZ\x00": lambda file: lzma.LZMAFile(file),
}


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold. Weights hardly compress: `expansion_ratio` is far above what real ones reach."""

    file_count: int = 2_000
    total_bytes: int = 1 << 42
    expansion_ratio: int = 50
    free_expansion_bytes: int = 256 << 20

    def most_bytes(self, archive_bytes: int) -> int:
        """Most that an archive of this size may unpack to."""
        return min(
            self.total_bytes, archive_bytes * self.expansion_ratio + self.free_expansion_bytes
        )


def is_archive(path: Path) -> bool:
    """Whether a file's first bytes are an archive's; a compressed file counts, whatever is in it."""
    with path.open("rb") as file:
        head = file.read(_TAR_MAGIC_PLACE + 5)
    return head.startswith((b"PK\x03\x04", *_COMPRESSED)) or head[_TAR_MAGIC_PLACE:] == b"ustar"


def unpack(
    archive: Path,
    target: Path,
    on_bytes: Callable[[int], None],
    limits: ArchiveLimits = ArchiveLimits(),
) -> None:
    """Writes the archive's files below `target`, a new folder, and syncs them. `on_bytes` hears of every chunk.

    InvalidArgument for a damaged archive and for one with links, devices, names that lead elsewhere, or more than the
    limits allow; ResourceExhausted when the disk is full. What was written by then stays for the caller to remove.
    """
    most_bytes = limits.most_bytes(archive.stat().st_size)
    with report_disk_errors(target):
        target.mkdir()
    writer = _Writer(archive, target, most_bytes, limits, on_bytes)
    try:
        with archive.open("rb") as file:
            if file.read(2) == b"PK":
                _unpack_zip(file, writer)
            else:
                _unpack_tar(file, writer)
    except FarthingError:
        raise
    # The libraries raise a dozen kinds of error on hostile bytes, and document none.
    except Exception as error:
        raise _refuse(archive, f"it is damaged or no archive ({error})") from error


def _unpack_zip(file: BinaryIO, writer: _Writer) -> None:
    with zipfile.ZipFile(cast(IO[bytes], _Guard(file, writer))) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        writer.require_count(len(members))
        writer.expect(sum(member.file_size for member in members))
        for member in members:
            mode = member.external_attr >> 16
            if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
                raise writer.refuse(f"{member.filename!r} is no plain file")
            with archive.open(member) as content:
                writer.write(member.filename, content)


def _unpack_tar(file: BinaryIO, writer: _Writer) -> None:
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    opener = next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), None)
    content = opener(file) if opener is not None else file
    guard = cast(IO[bytes], _Guard(content, writer))
    with tarfile.open(fileobj=guard, mode="r:") as archive:
        for member in _members(archive, writer):
            if member.isdir():
                continue
            if not member.isreg() or member.size < 0:
                raise writer.refuse(f"{member.name!r} is no plain file")
            extracted = archive.extractfile(member)
            assert extracted is not None
            writer.write(member.name, extracted)


def _members(archive: tarfile.TarFile, writer: _Writer) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := archive.next()) is not None:
        count += 1
        writer.require_count(count)
        yield member


class _Writer:
    """Writes members as plain files below one folder, within the limits."""

    def __init__(
        self,
        archive: Path,
        target: Path,
        most_bytes: int,
        limits: ArchiveLimits,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._archive, self._target, self._limits = archive, target, limits
        self._most_bytes, self._on_bytes = most_bytes, on_bytes
        self._written_bytes = self._file_count = 0

    def refuse(self, finding: str) -> InvalidArgument:
        return _refuse(self._archive, finding)

    def expect(self, total_bytes: int) -> None:
        """What the archive says it holds: refused, or found too large for the disk, before anything is written."""
        self._require_bytes(total_bytes)
        require_room(self._target, total_bytes)

    def require_count(self, count: int) -> None:
        if count > self._limits.file_count:
            raise self.refuse(f"it holds more than {self._limits.file_count} files")

    def require_unpacked(self, place_bytes: int) -> None:
        """Bounds what a compressed archive unpacks to, members that are skipped included."""
        self._require_bytes(place_bytes - (64 << 20))  # headers and padding

    def write(self, name: str, content: IO[bytes]) -> None:
        self._file_count += 1
        self.require_count(self._file_count)
        if name.startswith(_FOREIGN):
            return
        path = self._place(name)
        with report_disk_errors(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("xb")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise self.refuse(f"it holds {name!r} twice") from None
            with file:
                while chunk := self._read(content):
                    self._written_bytes += len(chunk)
                    self._require_bytes(self._written_bytes)
                    file.write(chunk)
                    self._on_bytes(len(chunk))
                file.flush()
                os.fsync(file.fileno())

    def _read(self, content: IO[bytes]) -> bytes:
        try:
            return content.read(_CHUNK_BYTES)
        except OSError as error:  # gzip's way to say that a checksum is wrong
            raise self.refuse(f"it is damaged ({error})") from error

    def _place(self, name: str) -> Path:
        try:
            return place_inside(self._target, name)
        except ValueError as error:
            raise self.refuse(str(error)) from None

    def _require_bytes(self, total_bytes: int) -> None:
        if total_bytes > self._most_bytes:
            raise self.refuse(f"it unpacks to more than {self._most_bytes} bytes")


class _Guard(io.RawIOBase):
    """Stands between an archive and the library that reads it: no read is so large that memory could end."""

    def __init__(self, file: IO[bytes], writer: _Writer) -> None:
        self._file, self._writer = file, writer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = _LARGEST_READ_BYTES + 1
        data = self._file.read(min(size, _LARGEST_READ_BYTES + 1))
        if len(data) > _LARGEST_READ_BYTES:
            raise self._writer.refuse("its directory is larger than any model's")
        self._writer.require_unpacked(self._file.tell())
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            self._writer.require_unpacked(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _refuse(archive: Path, finding: str) -> InvalidArgument:
    return InvalidArgument(
        f"{archive.name} is refused: {finding}; pack the model's files alone, with plain names",
        field="source",
        reason="ARCHIVE_REFUSED",
        metadata={"path": str(archive), "finding": finding},
    )
