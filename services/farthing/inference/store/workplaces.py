"""Folders of one process inside a store: told from those that a killed process left by a lock that is free."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farthing.inference.store.contents import Contents
from farthing.inference.store.files import is_locked, report_disk_errors
from farthing.kit.errors import InvalidArgument, Unimplemented

LOCK_NAME = "lock"


@contextmanager
def private_folder(contents: Contents, purpose: str) -> Iterator[Path]:
    """A new folder of this process's alone, gone when the block ends."""
    with contents.lock(), report_disk_errors(contents.incoming):
        contents.incoming.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=contents.incoming))
        lock = (folder / LOCK_NAME).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shared_folder(contents: Contents, key: str) -> Iterator[Path]:
    """The folder of this key, which stays unless the block removes it; one process at a time has it, others wait."""
    while True:
        with contents.lock(), report_disk_errors(contents.incoming):
            folder = contents.incoming / key
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK_NAME).open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Whoever had it before may have removed it: then the lock is on a file without a name.
            if _is_same(lock.fileno(), folder / LOCK_NAME):
                yield folder
                return


@contextmanager
def used_up(folder: Path) -> Iterator[None]:
    """A download is removed when it is stored, or found to be no good; not because a disk is full or a name taken."""
    try:
        yield
    except (InvalidArgument, Unimplemented):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether no process works in the folder. Ask it under the store's lock."""
    return not is_locked(folder / LOCK_NAME)


def discard(contents: Contents, folder: Path) -> Path:
    """Takes a folder out of its place in one step; the caller deletes what comes back. For holders of the lock."""
    contents.incoming.mkdir(parents=True, exist_ok=True)
    trash = Path(tempfile.mkdtemp(prefix="trash-", dir=contents.incoming))
    folder.rename(trash / "files")
    return trash


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        here, there = os.fstat(descriptor), path.stat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
