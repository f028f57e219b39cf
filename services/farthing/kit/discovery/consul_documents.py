"""Documents in Consul's key-value store below farthing/, watched with one blocking read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from farthing.kit.discovery.background import BackgroundTasks
from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.discovery.documents import Document, DocumentBoard, Receive, Validate
from farthing.kit.discovery.file_documents import offer_text
from farthing.kit.discovery.registry import Unsubscribe
from farthing.kit.discovery.saved_state import read_json, write_json
from farthing.kit.discovery.view import next_index, retry_after_s
from farthing.kit.errors import Aborted, FarthingError

_log = logging.getLogger(__name__)

ROOT = "farthing/"
_WAIT_S = 60.0
_FIRST_ANSWER_S = 5.0
_MIN_GAP_S = 0.05


class ConsulDocuments:
    """See DocumentSource. `state_file` remembers good versions over restarts; None remembers nothing."""

    def __init__(
        self,
        client: ConsulClient,
        *,
        state_file: Path | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._state_file = state_file
        self._jitter = jitter
        self._board = DocumentBoard()
        self._tasks = BackgroundTasks()
        self._watching = False

    async def get(self, key: str) -> Document | None:
        """See DocumentSource."""
        self._start()
        try:
            async with asyncio.timeout(_FIRST_ANSWER_S):
                await self._board.ready.wait()
        except TimeoutError:
            _log.warning("document %s: no answer from Consul yet", key)
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

    async def put(self, key: str, content: Any, *, expected_version: str | None = None) -> None:
        """Write a document. With `expected_version` ("0": must not exist) Aborted when another write came first."""
        params = {} if expected_version is None else {"cas": expected_version.partition(".")[0]}
        answer = await self._client.put(
            f"/v1/kv/{quote(ROOT + key)}", json.dumps(content).encode(), params=params
        )
        if answer.body is not True:
            raise Aborted(
                f"document {key} is no longer at version {expected_version}; read it again",
                reason="DOCUMENT_CHANGED",
                metadata={"key": key},
            )

    async def close(self) -> None:
        """See DocumentSource."""
        await self._tasks.close()
        await self._client.close()

    def _start(self) -> None:
        if self._watching:
            return
        self._watching = True
        self._recall()
        self._tasks.start(self._watch(), name="watch documents")

    async def _watch(self) -> None:
        index = errors = 0
        while True:
            try:
                answer = await self._client.block(
                    f"/v1/kv/{ROOT}",
                    index=index,
                    wait_s=_WAIT_S,
                    params={"recurse": "", "stale": ""},
                )
            except FarthingError as error:
                errors, index = errors + 1, 0
                if errors == 1:
                    _log.warning("documents: keeping the last good versions: %s", error)
                await asyncio.sleep(retry_after_s(errors, self._jitter()))
                continue
            errors = 0
            index = next_index(index, answer.index)
            changed = False
            for entry in answer.body or ():
                key = entry["Key"].removeprefix(ROOT)
                if not key or key.endswith("/"):
                    continue  # folders that the Consul UI makes
                data = base64.b64decode(entry["Value"] or "")
                changed |= offer_text(
                    self._board, key, name_version(entry["ModifyIndex"], data), data
                )
            self._board.ready.set()
            if changed:
                await self._save()
            await asyncio.sleep(_MIN_GAP_S)

    def _recall(self) -> None:
        saved = read_json(self._state_file) if self._state_file is not None else None
        if isinstance(saved, dict) and saved:
            self._board.offer(
                Document(key, str(item["version"]), item["content"])
                for key, item in saved.items()
                if isinstance(item, dict) and {"version", "content"} <= item.keys()
            )

    async def _save(self) -> None:
        if self._state_file is None:
            return
        content = {
            key: {"version": item.version, "content": item.content}
            for key, item in self._board.accepted.items()
        }
        try:
            await asyncio.to_thread(write_json, self._state_file, content)
        except OSError as error:
            _log.warning("documents cannot be remembered in %s: %s", self._state_file, error)


def name_version(modify_index: int, data: bytes) -> str:
    """Index and content: in a cluster set up anew, other content may meet an old index."""
    return f"{modify_index}.{hashlib.sha256(data).hexdigest()[:12]}"
