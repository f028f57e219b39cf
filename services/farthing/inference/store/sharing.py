"""Lets models share files: what the store has already is neither fetched nor kept a second time."""

from __future__ import annotations

import os
from pathlib import Path

from farthing.inference.store.contents import Contents
from farthing.inference.store.files import hash_file, report_disk_errors


def link_stored(contents: Contents, sha256: str, size_bytes: int, target: Path) -> bool:
    """Puts a stored file of this content at `target`, in place of what is there; False when there is none.

    Its content is read and compared first: a damaged file is not passed on. `size_bytes` 0 is unknown.
    """
    spare = target.with_name(f".{target.name}.shared")
    for stored in contents.find_files(sha256, size_bytes):
        try:
            if hash_file(stored) != sha256:
                continue
            with report_disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            spare.unlink(missing_ok=True)
            os.link(stored, spare)
            spare.replace(target)
            return True
        except OSError:  # it went away meanwhile, or this file system has no links
            continue
    return False


def take_over(path: Path, target: Path) -> None:
    """Gives a file of the store's own another name, which it then has beside the old one where there are links."""
    with report_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:  # a file system without links
            path.replace(target)
