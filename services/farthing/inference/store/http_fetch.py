"""Downloads a file over HTTP and goes on where an earlier try stopped, in this process or in one before it."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from farthing.inference.store.bandwidth import Throttle
from farthing.inference.store.files import (
    AddProgress,
    ProgressCallback,
    require_room,
    write_json,
)
from farthing.inference.store.http_open import WebOpener, parse_url, public_form
from farthing.inference.store.partial import PartFile, open_part
from farthing.inference.store.retrying import Interruption, Retrying
from farthing.kit.errors import (
    FarthingError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_REPR_DIGEST = re.compile(r"sha-256=:?([A-Za-z0-9+/=]+):?", re.IGNORECASE)
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Download:
    """A file to fetch. `sha256` and `size_bytes` are what it must have, empty or 0 when nobody said."""

    url: str
    path: Path
    label: str
    sha256: str = ""
    size_bytes: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`proven` tells whether the sha256 was compared with one that was given or published."""

    sha256: str
    size_bytes: int
    proven: bool


@dataclass(frozen=True, slots=True)
class _Remote:
    """What the other side says of the file: what to recognise it by, and its size, -1 when unknown."""

    validator: str
    total_bytes: int
    sha256: str = ""

    def continues(self, before: _Remote) -> bool:
        """Whether it can be the file that was met before."""
        same_size = self.total_bytes == before.total_bytes or before.total_bytes < 0
        silent = not self.validator or not before.validator
        return same_size and (silent or self.validator == before.validator)


_UNKNOWN = _Remote("", -1)


class HttpFetcher:
    """Fetches one file after the other, at most as fast as the throttle lets it."""

    def __init__(
        self, throttle: Throttle, retrying: Retrying, opener: WebOpener | None = None
    ) -> None:
        self._throttle, self._retrying = throttle, retrying
        self._opener = opener or WebOpener()

    def fetch(self, download: Download, report: ProgressCallback) -> Downloaded:
        """The whole file at `download.path`, synced and compared.

        NotFound, PermissionDenied, Unavailable (try again: it goes on), ResourceExhausted (disk full: make room, it
        goes on), InvalidArgument (the content is not what it should be; what came is thrown away).
        """
        parse_url(download.url)
        checking = AddProgress("check", download.label, 0, 0)
        with open_part(download.path, lambda count: report(checking)) as part:
            return _Transfer(
                self._opener, self._throttle, self._retrying, download, part, report
            ).run()


class _Transfer:
    def __init__(
        self,
        opener: WebOpener,
        throttle: Throttle,
        retrying: Retrying,
        download: Download,
        part: PartFile,
        report: ProgressCallback,
    ) -> None:
        self._opener, self._throttle, self._retrying = opener, throttle, retrying
        self._download, self._part, self._report = download, part, report
        self._state_path = download.path.with_name(f"{download.path.name}.state")
        known = self._read_state()
        if known is None and part.size_bytes:
            part.restart()  # nobody knows what it is the beginning of
        self._remote = known or _UNKNOWN

    def run(self) -> Downloaded:
        resumed = self._part.size_bytes > 0
        while True:
            self._retrying.run(self._attempt, lambda: self._part.size_bytes, self._report)
            self._part.sync()
            wanted = self._download.sha256 or self._remote.sha256
            if not wanted or self._part.sha256 == wanted.lower():
                return Downloaded(self._part.sha256, self._part.size_bytes, bool(wanted))
            found = self._part.sha256
            self._forget()
            if not resumed:
                raise self._mismatch(
                    f"it has sha256 {found[:12]}…, announced was {wanted[:12]}…"
                )
            resumed = False  # the beginning may have been another file's: once from the start

    def _attempt(self) -> None:
        offset = self._part.size_bytes
        if 0 <= self._remote.total_bytes == offset:
            return
        headers = dict(self._download.headers)
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._remote.validator:
                headers["If-Range"] = self._remote.validator
        try:
            with self._open(headers) as response:
                self._meet(response, offset)
                self._read(response)
        except (HTTPException, OSError) as error:
            raise self._interrupted(error) from error

    def _open(self, headers: Mapping[str, str]) -> HTTPResponse:
        try:
            return self._opener.open(self._download.url, headers, self._retrying.rules.stall_s)
        except HTTPError as error:
            with error:
                self._refused(error)
            raise self._interrupted(error) from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError) or (
                isinstance(error.reason, socket.gaierror)
                and error.reason.errno == socket.EAI_NONAME
            ):
                raise self._unavailable(str(error.reason)) from error
            raise

    def _meet(self, response: HTTPResponse, offset: int) -> None:
        """Settles what the answer is part of, and whether what is here already goes with it."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise self._unavailable("the server compresses it on the way")
        remote = _describe(response)
        if response.status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != offset or not remote.continues(self._remote):
                self._forget()
                raise Interruption(self._unavailable("it changed while it was fetched"))
            remote = replace(remote, sha256=remote.sha256 or self._remote.sha256)
        elif offset:
            # Another file now, or a server that cannot go on in the middle.
            self._forget()
        wanted_bytes = self._download.size_bytes
        if wanted_bytes and remote.total_bytes not in (-1, wanted_bytes):
            raise self._mismatch(f"it has {remote.total_bytes} bytes instead of {wanted_bytes}")
        if remote.total_bytes >= 0:
            require_room(self._state_path.parent, remote.total_bytes - self._part.size_bytes)
        self._remote = remote
        write_json(
            self._state_path,
            {
                "validator": remote.validator,
                "total_bytes": remote.total_bytes,
                "sha256": remote.sha256,
            },
        )

    def _read(self, response: HTTPResponse) -> None:
        total = self._remote.total_bytes
        # One read of the socket at a time: what came before a break is kept.
        while chunk := response.read1(self._throttle.chunk_bytes):
            self._part.append(chunk)
            self._report(
                AddProgress(
                    "download", self._download.label, self._part.size_bytes, max(total, 0)
                )
            )
            self._throttle.pay(len(chunk))
        if self._part.size_bytes < total:
            raise Interruption(
                self._unavailable(f"it ended after {self._part.size_bytes} of {total} bytes")
            )

    def _refused(self, error: HTTPError) -> None:
        """Raises what an error status means; returns for those that may pass."""
        shown, status = public_form(self._download.url), error.code
        metadata = {"url": shown, "status": str(status)}
        if status in (404, 410):
            raise NotFound(
                f"there is nothing at {shown} (HTTP {status}); check the address",
                reason="URL_NOT_FOUND",
                metadata=metadata,
            )
        if status in (401, 403):
            raise PermissionDenied(
                f"{shown} wants a permission (HTTP {status}); use an address that carries one, or fetch the file "
                "yourself and add it from disk",
                reason="URL_FORBIDDEN",
                metadata=metadata,
            )
        if 300 <= status < 400:
            raise InvalidArgument(
                f"{shown} leads to somewhere that models are not fetched from ({error.reason}); give the address of "
                "the file itself",
                field="source",
                reason="URL_INVALID",
                metadata=metadata,
            )
        if status == 416:  # what is here is longer than the file there
            self._forget()
        elif status not in _TRY_AGAIN:
            raise self._unavailable(f"HTTP {status} {error.reason}")

    def _interrupted(self, error: Exception) -> Interruption:
        wait = 0.0
        if isinstance(error, HTTPError):
            finding = f"HTTP {error.code} {error.reason}"
            retry_after = error.headers.get("Retry-After", "")
            wait = float(retry_after) if retry_after.isdecimal() else 0.0
        elif isinstance(error, TimeoutError) or (
            isinstance(error, URLError) and isinstance(error.reason, TimeoutError)
        ):
            finding = f"nothing came for {self._retrying.rules.stall_s:g} s"
        else:
            reason = error.reason if isinstance(error, URLError) else error
            finding = str(reason) or type(error).__name__
        return Interruption(self._unavailable(finding), wait)

    def _unavailable(self, finding: str) -> FarthingError:
        return Unavailable(
            f"{public_form(self._download.url)} did not deliver: {finding}; run the same command again, it goes on "
            "where it stopped",
            reason="DOWNLOAD_FAILED",
            metadata={"url": public_form(self._download.url), "finding": finding},
        )

    def _mismatch(self, finding: str) -> InvalidArgument:
        return InvalidArgument(
            f"{self._download.label} is not what was announced: {finding}; check the source, then fetch it again",
            field="source",
            reason="MODEL_HASH_MISMATCH",
            metadata={"url": public_form(self._download.url)},
        )

    def _forget(self) -> None:
        self._part.restart()
        self._remote = _UNKNOWN
        self._state_path.unlink(missing_ok=True)

    def _read_state(self) -> _Remote | None:
        try:
            state: dict[str, Any] = json.loads(self._state_path.read_text(encoding="utf-8"))
            return _Remote(
                str(state["validator"]), int(state["total_bytes"]), str(state["sha256"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _describe(response: HTTPResponse) -> _Remote:
    headers = response.headers
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        total = int(found[2]) if found is not None and found[2] != "*" else -1
    else:
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else -1
    return _Remote(validator, total, _read_digest(headers))


def _read_digest(headers: Message) -> str:
    """The sha256 of the whole file as RFC 9530, or RFC 3230 before it, has it said; empty without one."""
    for name in ("Repr-Digest", "Digest"):
        found = _REPR_DIGEST.search(headers.get(name, ""))
        try:
            raw = base64.b64decode(found[1], validate=True) if found is not None else b""
        except ValueError:
            continue
        if len(raw) == 32:
            return raw.hex()
    return ""
