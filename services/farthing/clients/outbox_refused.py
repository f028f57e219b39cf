"""What receivers refused for good, kept for people: one JSON object a line, the payload in base64."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from farthing.kit.durability import Synchronous
from farthing.kit.errors import Unavailable
from farthing.kit.journal import Entry


class RefusedFile:
    """Appends to `path`. An entry may be there twice, when the process died between this and its acknowledgement."""

    def __init__(self, path: Path, *, synchronous: Synchronous) -> None:
        self._path, self._synchronous = path, synchronous

    def add(self, refusals: Sequence[tuple[Entry, str]], *, refuse_time_ns: int) -> None:
        """Keep entries with the reasons why they were refused, all or none. Unavailable when the disk refuses."""
        lines = b"".join(
            _line(entry, reason, refuse_time_ns=refuse_time_ns) for entry, reason in refusals
        )
        try:
            self._append(lines)
        except OSError as error:
            raise Unavailable(
                f"{self._path} cannot be written ({error.strerror or error});"
                " check the disk's free space and permissions",
                reason="STORE_WRITE_FAILED",
                metadata={"file": self._path.name},
                retry_after_ms=1000,
            ) from error

    def _append(self, lines: bytes) -> None:
        with open(self._path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    lines = b"\n" + lines  # a process died in the middle of a line
            try:
                while lines:
                    lines = lines[file.write(lines) or 0 :]
                if self._synchronous == "full":
                    os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise


def _line(entry: Entry, reason: str, *, refuse_time_ns: int) -> bytes:
    record = {
        "kind": entry.kind,
        "id": entry.id,
        "reason": reason,
        "append_time": _show(entry.append_time_ns),
        "refuse_time": _show(refuse_time_ns),
        "payload": base64.b64encode(entry.payload).decode(),
    }
    return json.dumps(record).encode() + b"\n"


def _show(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
