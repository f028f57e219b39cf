"""Marks of the processes that use a stored model, so that nothing removes it under them."""

from __future__ import annotations

import fcntl
import os

from farthing.inference.store.contents import Contents
from farthing.inference.store.files import is_locked


class Hold:
    """Keeps a model from being removed until `release`, or until this process ends, however it ends."""

    def __init__(self, contents: Contents, digest: str) -> None:
        self._descriptor: int | None = None
        if not contents.folder(digest).is_dir():
            return
        try:
            contents.holds.mkdir(exist_ok=True)
            descriptor = os.open(contents.holds / digest, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return  # a store that cannot be written needs no guard against removal
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go. Does nothing the second time."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(contents: Contents, digest: str) -> bool:
    """Whether some process holds the model."""
    return is_locked(contents.holds / digest)
