"""How much room folders take, counting a file that several of them share once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def used_bytes(folders: Iterable[Path]) -> int:
    """Bytes of all files below the folders, each file once however many names it has."""
    sizes = {
        (status.st_dev, status.st_ino): status.st_size
        for folder in folders
        for status in _files(folder)
    }
    return sum(sizes.values())


def freed_bytes(folders: Iterable[Path]) -> int:
    """Bytes that deleting the folders would free: of files that have no name outside of them."""
    links: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, int], os.stat_result] = {}
    for folder in folders:
        for status in _files(folder):
            key = (status.st_dev, status.st_ino)
            links[key] = links.get(key, 0) + 1
            found[key] = status
    return sum(status.st_size for key, status in found.items() if status.st_nlink <= links[key])


def newest_change_s(folder: Path) -> float:
    """When anything below the folder last changed, seconds since 1970; 0 for a folder that is gone."""
    times = [status.st_mtime for status in _files(folder)]
    try:
        times.append(folder.stat().st_mtime)
    except FileNotFoundError:
        pass
    return max(times, default=0.0)


def _files(folder: Path) -> Iterable[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(place, name))
            except FileNotFoundError:  # another process was faster
                continue
