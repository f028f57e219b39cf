"""Tells paths that stay inside a folder from those that strangers would like to lead elsewhere."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_MOST_PARTS = 16
_MOST_PART_BYTES = 255


def place_inside(folder: Path, name: str) -> Path:
    """Where a file of that relative name, with forward slashes, lies in `folder`. ValueError when it does not."""
    parts = PurePosixPath(name).parts
    if (
        not name.isprintable()
        or "\\" in name
        or name.startswith("/")
        or not 0 < len(parts) <= _MOST_PARTS
        or ".." in parts
        or any(len(part.encode()) > _MOST_PART_BYTES for part in parts)
    ):
        raise ValueError(f"{name[:80]!r} is a name that leads elsewhere")
    return folder.joinpath(*parts)
