"""Opens http and https addresses, nothing else: a redirect takes no secret to another host and leaves no https."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from http.client import HTTPMessage, HTTPResponse
from typing import IO, cast
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from farthing.kit.errors import InvalidArgument
from farthing.kit.version import __version__

# What an address may hold as it is; anything else is escaped.
_PLAIN = "%/:=&?~#+!$,;'@()*[]"
_SECRET_HEADERS = ("Authorization", "Cookie")


def is_url(text: str) -> bool:
    """Whether a source is an address on the web."""
    return text.lower().startswith(("http://", "https://"))


def parse_url(url: str) -> SplitResult:
    """The parts of an address. InvalidArgument when it is none, or holds a password."""
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
        (parts.hostname or "").encode("idna")
    except ValueError:
        parts, fine = urlsplit(""), False
    if not fine:
        raise InvalidArgument(
            f"{url[:200]!r} is no address; write http:// or https://, a host and a path",
            field="source",
            reason="URL_INVALID",
        )
    if parts.username or parts.password:
        raise InvalidArgument(
            "the address holds a user name or password; take it out, use an address that needs none",
            field="source",
            reason="URL_INVALID",
        )
    return parts


def public_form(url: str) -> str:
    """The address without its query, which may be a signature or a token: for messages, and to be remembered."""
    parts = urlsplit(url)
    shown = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return f"{shown}?…" if parts.query else shown


class WebOpener:
    """Opens addresses through the proxies of the environment."""

    def __init__(self) -> None:
        director = urllib.request.OpenerDirector()
        # Without the handlers for files and ftp that the library adds by itself.
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(),
        ):
            director.add_handler(handler)
        self._director = director

    def open(self, url: str, headers: Mapping[str, str], timeout_s: float) -> HTTPResponse:
        """The answer's head, with its body to be read. OSError and HTTPException as urllib raises them."""
        request = urllib.request.Request(
            quote(url, safe=_PLAIN),
            headers={
                "User-Agent": f"farthing/{__version__}",
                # What is compressed on the way has another length and cannot be gone on with.
                "Accept-Encoding": "identity",
                **headers,
            },
        )
        return cast(HTTPResponse, self._director.open(request, timeout=timeout_s))


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
            raise InvalidArgument(
                f"{public_form(req.full_url)} leads to {public_form(newurl)}, which is not https; give an address that "
                "stays on it",
                field="source",
                reason="URL_INVALID",
            )
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (old.hostname, old.port) != (new.hostname, new.port):
            for name in _SECRET_HEADERS:
                following.remove_header(name)
        return following
