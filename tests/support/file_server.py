"""A web server on a local port that serves files well or badly: cuts, stalls, lies, refuses."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


@dataclass
class ServedFile:
    """One file and how it is served.

    The first connections follow `cut_after_bytes`, `stall_after_bytes` and `statuses`, an entry each; later ones are
    served in full. `announced_bytes` is what Content-Length lies. Without `etag` none is sent.
    """

    content: bytes
    ranges: bool = True
    etag: str | None = None
    digest: str = ""
    cut_after_bytes: list[int] = field(default_factory=list)
    stall_after_bytes: list[int] = field(default_factory=list)
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    announced_bytes: int | None = None
    chunked: bool = False
    redirect: str = ""
    bytes_per_write: int = 0


class FileServer:
    """A context manager. `requests` has the headers of every request, `sent_bytes` all bodies' bytes together."""

    def __init__(self) -> None:
        self.files: dict[str, ServedFile] = {}
        self.requests: list[dict[str, str]] = []
        self.sent_bytes = 0
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            pass

        Handler.owner = server
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, name: str, content: bytes, **how: object) -> ServedFile:
        """Serves a file from now on, with its hash for an ETag unless told otherwise."""
        how.setdefault("etag", f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        self.files[name] = ServedFile(content, **how)  # type: ignore[arg-type]
        return self.files[name]

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    @property
    def offsets(self) -> list[int]:
        """Where each request wanted to begin."""
        asked = [one.get("range", "bytes=0-") for one in self.requests]
        return [int(text.removeprefix("bytes=").split("-")[0]) for text in asked]

    def __enter__(self) -> FileServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.owner.requests.append({k.lower(): v for k, v in self.headers.items()})
        self.close_connection = True
        file = self.owner.files.get(urlsplit(self.path).path.lstrip("/"))
        if file is None:
            self._refuse(404, {})
        elif file.redirect:
            self._refuse(302, {"Location": file.redirect})
        elif file.statuses:
            self._refuse(*file.statuses.pop(0))
        else:
            self._send(file)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, file: ServedFile) -> None:
        start, total = self._start(file), len(file.content)
        if start > total:
            self._refuse(416, {"Content-Range": f"bytes */{total}"})
            return
        self.send_response(206 if start else 200)
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.digest:
            self.send_header("Repr-Digest", file.digest)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            announced = total if file.announced_bytes is None else file.announced_bytes
            self.send_header("Content-Length", str(announced - start))
        self.end_headers()
        self._send_body(file, file.content[start:])

    def _start(self, file: ServedFile) -> int:
        asked = self.headers.get("Range", "")
        condition = self.headers.get("If-Range")
        if not file.ranges or not asked or (condition and condition != file.etag):
            return 0
        return int(asked.removeprefix("bytes=").split("-")[0])

    def _send_body(self, file: ServedFile, body: bytes) -> None:
        cut = file.cut_after_bytes.pop(0) if file.cut_after_bytes else None
        stall = file.stall_after_bytes.pop(0) if file.stall_after_bytes else None
        for piece in _pieces(body[: cut if stall is None else stall], file.bytes_per_write):
            try:
                self.wfile.write(
                    b"%x\r\n%s\r\n" % (len(piece), piece) if file.chunked else piece
                )
                self.wfile.flush()
            except OSError:  # the reader is gone
                return
            self.owner.sent_bytes += len(piece)
        if stall is not None:
            self.owner.closing.wait(60)
        elif file.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")


def _pieces(body: bytes, size: int) -> list[bytes]:
    if not body:
        return []
    step = size or len(body)
    return [body[place : place + step] for place in range(0, len(body), step)]
