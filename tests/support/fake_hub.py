"""A model hub on a local port: the endpoints and headers that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubRepository:
    """`files` as published; `served` replaces what is delivered; every connection breaks at a byte."""

    files: dict[str, bytes]
    served: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    break_at_byte: int | None = None


class FakeHub:
    """A context manager; `endpoint` is its address, `range_starts` the resumed offsets it was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, HubRepository] = {}
        self.range_starts: list[int] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif is_api and parts[4:] not in ([], ["revision", "main"], ["revision", COMMIT]):
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            self._send_json(_describe(name, repository))
        elif parts[2] == "resolve" and "/".join(parts[4:]) in repository.files:
            self._send_file(repository, "/".join(parts[4:]), body=body)
        else:
            self._refuse(404, "EntryNotFound")

    def _send_json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_file(self, repository: HubRepository, path: str, *, body: bool) -> None:
        published = repository.files[path]
        content = repository.served.get(path, published)
        start = 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            self.hub.range_starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(published).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
            )
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        end = repository.break_at_byte
        if end is None:
            self.wfile.write(content[start:])
        else:
            self.wfile.write(content[start:end])
            self.wfile.flush()
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        data = json.dumps({"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _describe(name: str, repository: HubRepository) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for path, content in repository.files.items():
        entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
        if path.endswith((".gguf", ".onnx")):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings}
