"""A lock on a file that one process holds at a time; the kernel frees it when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from farthing.kit.errors import FailedPrecondition, Unavailable


class FileLock:
    """Not for two threads at a time. The file stays: removing it would let two processes each lock their own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock. FailedPrecondition when another process has it, Unavailable when the file cannot be made."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(
                f"{self._path} cannot be written ({error.strerror}); check the disk's free space and permissions",
                reason="STORE_WRITE_FAILED",
                metadata={"file": self._path.name},
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FailedPrecondition(
                f"{self._path.parent} is in use by another process; stop it or give this one another FARTHING_DATA_DIR",
                reason="STORE_IN_USE",
                metadata={"file": self._path.name},
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. Does nothing without the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
