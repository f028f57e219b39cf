"""Appends entries to segment files in one system call a write, and deletes a file when all in it is acknowledged."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from farthing.kit.errors import FailedPrecondition, FarthingError, Unavailable
from farthing.kit.journal.records import MAX_RECORD_BYTES, Entry, decode, encode_write, scan
from farthing.kit.journal.recovery import Backlog, Recovered, recover
from farthing.kit.journal.segment import HEADER, Position, Segment

# Seconds to minutes of a busy router, and some 50 ms to check at the next start.
_SEGMENT_BYTES = 4 * 1024 * 1024
_READ_BYTES = 2 * MAX_RECORD_BYTES
_LOCK_WAIT_S = 2.0
_LOCK_RETRY_S = 0.02
_log = logging.getLogger(__name__)


class Journal:
    """Entries on disk until their kind is acknowledged past them. Use it from one event loop.

    What `write` has returned survives the death of the process. `stage`, `sync` and `commit` are its
    steps for those who need it to survive the loss of power too: `sync` blocks, so give it to a thread, and let
    nothing be staged until it is committed or taken back.
    """

    def __init__(self, directory: Path, *, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self._directory, self._segment_bytes = directory, segment_bytes
        self._segments: list[Segment] = []
        self._active: Segment | None = None
        self._done: dict[str, int] = {}
        self._unwritten: dict[str, int] = {}
        self._staged: tuple[Sequence[Entry], int, dict[str, int]] = ((), 0, {})
        self._is_directory_changed = False
        self._lock_fd = -1
        self.next_sequence = 1
        """The sequence of the next entry: above that of every one before."""

    async def open(self) -> list[Backlog]:
        """Lock the directory, read what is there, and begin a new segment. Returns what waits.

        FailedPrecondition when another process has it (STORE_IN_USE) or another release wrote it
        (STORE_VERSION), Unavailable (STORE_WRITE_FAILED) when it cannot be used.
        """
        try:
            if not self._directory.is_dir():
                self._directory.mkdir(parents=True)
                _sync_directory(self._directory.parent)
            await self._lock()
            recovered = await asyncio.to_thread(recover, self._directory)
            self._begin(recovered)
        except OSError as error:
            self.close()
            raise self._explain(error) from error
        except BaseException:
            self.close()
            raise
        return recovered.backlogs

    def write(self, entries: Sequence[Entry]) -> Position:
        """Put `entries`, and what was acknowledged, behind all others: all or nothing. Returns where they begin.

        Unavailable: STORE_WRITE_FAILED when the disk refuses, STORE_CLOSED before `open` and after `close`.
        """
        position = self.stage(entries)
        self.commit()
        return position

    def stage(self, entries: Sequence[Entry]) -> Position:
        """The first step of `write`: the bytes are the kernel's, and not yet part of the journal."""
        segment = self._active
        if segment is None:
            raise Unavailable(
                f"{self._directory.name} is not open",
                reason="STORE_CLOSED",
                metadata={"file": self._directory.name},
            )
        try:
            if segment.size >= self._segment_bytes or segment.is_broken:
                segment = self._rotate(segment)
            data = encode_write(entries, self._unwritten)
            segment.write(data)
        except OSError as error:
            raise self._explain(error) from error
        self._staged = entries, len(data), self._unwritten
        if self._unwritten:
            self._unwritten = {}
        return segment.number, segment.size

    def sync(self) -> None:
        """Return when what is staged survives the loss of power. Unavailable if the disk refuses: take it back then."""
        assert self._active is not None
        try:
            self._active.sync()
            if self._is_directory_changed:
                _sync_directory(self._directory)
                self._is_directory_changed = False
        except OSError as error:
            # The kernel may now take its pages for clean: no later fsync would say whether they are on disk.
            self._active.is_broken = True
            raise self._explain(error) from error

    def commit(self) -> None:
        """Make what is staged part of the journal."""
        segment = self._active
        assert segment is not None
        entries, size, _ = self._staged
        segment.size += size
        highest = segment.highest
        for entry in entries:
            highest[entry.kind] = entry.sequence

    def take_back(self) -> None:
        """Undo `stage`."""
        assert self._active is not None
        self._active.cut()
        self._unwritten = {**self._staged[2], **self._unwritten}

    def acknowledge(self, kind: str, sequence: int) -> None:
        """Entries of `kind` up to `sequence` are done with. Goes to disk with the next write."""
        self._done[kind] = self._unwritten[kind] = sequence
        if len(self._segments) > 1:
            self._sweep()

    @property
    def has_unwritten(self) -> bool:
        """Whether something is acknowledged that no write has carried yet."""
        return bool(self._unwritten)

    def read(
        self, kind: str, after_sequence: int, position: Position, limit: int
    ) -> tuple[list[Entry], Position | None]:
        """The next entries of `kind` from `position` on, at most `limit`, and where to go on; None at the end.

        Unavailable (STORE_WRITE_FAILED) when the disk cannot be read.
        """
        entries: list[Entry] = []
        number, offset = position
        for segment in self._segments:
            if segment.number < number:
                continue
            if segment.number > number:
                offset = len(HEADER)
            while offset < segment.size:
                try:
                    data = segment.read(offset, _READ_BYTES)
                except OSError as error:
                    raise self._explain(error) from error
                end = 0
                for found in scan(data):
                    # Damaged since it was written: the file is kept for people to look at.
                    segment.is_damaged |= found.start != end
                    end = found.end
                    record = decode(data, found)
                    if (
                        isinstance(record, Entry)
                        and record.kind == kind
                        and record.sequence > after_sequence
                    ):
                        entries.append(record)
                        if len(entries) == limit:
                            return entries, (segment.number, offset + end)
                if offset + len(data) >= segment.size:
                    break
                # Nothing readable in all of it: a record may begin in its second half and end behind it.
                offset += end or len(data) - MAX_RECORD_BYTES
        return entries, None

    def close(self) -> None:
        """Close the files and let go of the directory. What is not written is not kept."""
        for segment in self._segments:
            segment.close()
        self._active = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    async def _lock(self) -> None:
        self._lock_fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o640)
        give_up = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                # The kernel lets go of it when the process ends, however it ends.
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise FailedPrecondition(
                        f"{self._directory} is in use by another process; stop it or give this one"
                        " another FARTHING_DATA_DIR",
                        reason="STORE_IN_USE",
                        metadata={"file": self._directory.name},
                    ) from None
            await asyncio.sleep(_LOCK_RETRY_S)

    def _begin(self, recovered: Recovered) -> None:
        self._segments, self._done = recovered.segments, recovered.done
        self.next_sequence = recovered.next_sequence
        # Never behind what another life wrote: a new file first, then the old ones that are done with.
        self._start_segment(recovered.next_number)
        self._sweep()

    def _start_segment(self, number: int) -> Segment:
        # It begins with all that is acknowledged, so that every earlier file can go when its own entries are done.
        segment = Segment.create(self._directory, number, encode_write((), self._done))
        self._segments.append(segment)
        self._active = segment
        self._unwritten = {}
        self._is_directory_changed = True
        return segment

    def _rotate(self, full: Segment) -> Segment:
        try:
            segment = self._start_segment(full.number + 1)
        except OSError:
            if full.is_broken:
                raise
            return full  # too large a file is better than none
        full.close()
        self._sweep()
        return segment

    def _sweep(self) -> None:
        """Delete the segments in which all is acknowledged, but never the one that is written."""
        kept = []
        for segment in self._segments:
            if segment is self._active or any(
                sequence > self._done.get(kind, 0) for kind, sequence in segment.highest.items()
            ):
                kept.append(segment)
                continue
            try:
                segment.remove()
            except OSError as error:
                _log.warning("%s cannot be removed: %s", segment.path, error)
        self._segments = kept

    def _explain(self, error: OSError) -> FarthingError:
        return Unavailable(
            f"{self._directory} cannot be used ({error.strerror or error});"
            " check the disk's free space and permissions",
            reason="STORE_WRITE_FAILED",
            metadata={"file": self._directory.name},
            retry_after_ms=1000,
        )


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
