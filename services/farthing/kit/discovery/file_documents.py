"""Documents in a directory, <kind>/<name>.json, read again when they change."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from farthing.kit.discovery.background import BackgroundTasks
from farthing.kit.discovery.documents import Document, DocumentBoard, Receive, Validate
from farthing.kit.discovery.registry import Unsubscribe
from farthing.kit.errors import FailedPrecondition

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class FileDocuments:
    """See DocumentSource. FailedPrecondition when the directory does not exist."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise FailedPrecondition(
                f"{directory} is no directory; make it or set FARTHING_DOCUMENTS_DIR",
                reason="DOCUMENTS_MISSING",
                metadata={"path": str(directory)},
            )
        self._directory = directory
        self._board = DocumentBoard()
        self._tasks = BackgroundTasks()
        self._stamps: dict[str, tuple[int, int]] = {}
        self._watching = False

    async def get(self, key: str) -> Document | None:
        """See DocumentSource."""
        self._start()
        return self._board.find(key)

    def subscribe(
        self, prefix: str, receive: Receive, *, validate: Validate | None = None
    ) -> Unsubscribe:
        """See DocumentSource."""
        self._start()
        return self._board.subscribe(prefix, receive, validate)

    @property
    def rejected(self) -> Mapping[str, str]:
        """See DocumentSource."""
        return self._board.rejected

    async def close(self) -> None:
        """See DocumentSource."""
        await self._tasks.close()

    def _start(self) -> None:
        if not self._watching:
            self._watching = True
            self._look()
            self._tasks.start(self._watch(), name="watch documents directory")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._look()

    def _look(self) -> None:
        for key, path in sorted(self._find()):
            try:
                status = os.stat(path)
                stamp = (status.st_mtime_ns, status.st_size)
                if self._stamps.get(key) == stamp:
                    continue
                data = Path(path).read_bytes()
            except OSError as error:
                _log.warning("document %s cannot be read: %s", key, error)
                continue
            self._stamps[key] = stamp
            offer_text(self._board, key, hashlib.sha256(data).hexdigest()[:12], data)
        self._board.ready.set()

    def _find(self) -> Iterator[tuple[str, str]]:
        # Twice a second for as long as the process lives: pathlib takes more than twice as long.
        root = os.fspath(self._directory)
        for folder, _, names in os.walk(root):
            for name in names:
                if name.endswith(".json"):
                    path = os.path.join(folder, name)
                    yield path[len(root) + 1 : -len(".json")], path


def offer_text(board: DocumentBoard, key: str, version: str, data: bytes) -> bool:
    """Put a document onto the board, or note that it is not JSON. True if it is new and good."""
    try:
        content = json.loads(data)
    except ValueError as error:
        board.reject(key, version, f"not JSON: {error}")
        return False
    return board.offer((Document(key, version, content),))
