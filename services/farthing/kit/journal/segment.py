"""One file of a journal: written only at its end, cut back when a write fails."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# Number of a segment and offset in it.
Position = tuple[int, int]

HEADER = b"farthing journal 1\n"
HEADER_OF_ANY_VERSION = HEADER[:17]
SUFFIX = ".segment"


class Segment:
    """Bytes up to `size` are part of the journal. `highest` has the last sequence of each kind in them."""

    def __init__(
        self, path: Path, size: int, highest: dict[str, int], *, is_damaged: bool = False
    ) -> None:
        self.path, self.number = path, int(path.name.removesuffix(SUFFIX))
        self.size, self.highest, self.is_damaged = size, highest, is_damaged
        self.is_broken = False  # nothing may be written behind what lies there
        self._fd = -1

    @classmethod
    def create(cls, directory: Path, number: int, begin: bytes) -> Segment:
        """A new file that begins with `begin`. OSError when there is no room; no file is left then."""
        segment = cls(directory / f"{number:012}{SUFFIX}", 0, {})
        segment._fd = os.open(segment.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        data = HEADER + begin
        try:
            segment.write(data)
        except BaseException:
            segment.close()
            segment.path.unlink()
            raise
        segment.size = len(data)
        return segment

    def write(self, data: bytes) -> None:
        """Put all of `data` behind `size`, which stays. OSError: nothing of it is there."""
        at, end = self.size, self.size + len(data)
        try:
            at += os.pwrite(self._fd, data, at)
            while at < end:
                # Full, or a limit is reached: the next attempt gets the error that says which.
                put = os.pwrite(self._fd, data[at - end :], at)
                if not put:
                    raise OSError(errno.EIO, "nothing could be written")
                at += put
        except BaseException:
            self.cut()
            raise

    def cut(self) -> None:
        """Take away what lies behind `size`."""
        try:
            os.ftruncate(self._fd, self.size)
        except OSError:
            self.is_broken = True

    def sync(self) -> None:
        """Return when the file's content survives a loss of power."""
        os.fdatasync(self._fd)

    def read(self, offset: int, max_bytes: int) -> bytes:
        """At most `max_bytes` of the journal's part from `offset` on."""
        fd = self._fd if self._fd >= 0 else os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(fd, max(0, min(max_bytes, self.size - offset)), offset)
        finally:
            if fd != self._fd:
                os.close(fd)

    def close(self) -> None:
        """Nothing more will be written."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete the file. A damaged one is kept, under another name, for people to look at."""
        self.close()
        if self.is_damaged:
            self.path.rename(self.path.with_suffix(".damaged"))
        else:
            self.path.unlink()
