"""A thin client of Consul's HTTP API: the few calls farthing needs, with the headers they answer with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from farthing.kit.errors import FarthingError, Unavailable

_CALL_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 1.0


class ConsulRefused(FarthingError):
    """Consul answered with an error status; `status` is HTTP's."""

    def __init__(self, status: int, body: str, path: str) -> None:
        hint = "; give FARTHING_CONSUL_TOKEN a token that may do this" if status == 403 else ""
        super().__init__(
            f"Consul answered {status} to {path}: {body.strip()[:200]}{hint}",
            reason="CONSUL_REFUSED",
            metadata={"status": str(status), "path": path},
        )
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded body and the index to block on. `found` is False for a key that does not exist."""

    body: Any
    index: int
    found: bool = True


class ConsulClient:
    """One agent's API. Opens its session on first use; close it."""

    def __init__(self, base_url: str, *, token: str = "") -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"X-Consul-Token": token} if token else {}
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> Answer:
        """Read. Unavailable when the agent cannot be reached in time, ConsulRefused on an error status."""
        status, index, data = await self._send("GET", path, params, None, timeout_s)
        if status == 404:
            return Answer(None, index, found=False)
        return Answer(json.loads(data), index)

    async def block(
        self, path: str, *, index: int, wait_s: float, params: Mapping[str, str]
    ) -> Answer:
        """Read at once when `index` is 0, else when something changed after it, or after `wait_s`."""
        if index == 0:
            return await self.get(path, params=params)
        wait_ms = max(1, round(wait_s * 1000))
        # Consul adds up to a sixteenth of jitter to the wait.
        return await self.get(
            path,
            params={**params, "index": str(index), "wait": f"{wait_ms}ms"},
            timeout_s=wait_s * 17 / 16 + _CALL_TIMEOUT_S,
        )

    async def put(
        self, path: str, body: bytes | Any = None, *, params: Mapping[str, str] | None = None
    ) -> Answer:
        """Write: bytes as they are, anything else as JSON. Errors as for `get`, 404 included."""
        data = (
            body
            if isinstance(body, bytes)
            else None
            if body is None
            else json.dumps(body).encode()
        )
        status, index, answer = await self._send("PUT", path, params, data, _CALL_TIMEOUT_S)
        if status == 404:
            raise ConsulRefused(status, answer.decode(errors="replace"), path)
        return Answer(json.loads(answer) if answer.strip() else None, index)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        data: bytes | None,
        timeout_s: float,
    ) -> tuple[int, int, bytes]:
        if self._session is None:
            # Every watch holds a connection for its whole wait: no limit of aiohttp's own.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                params=params,
                data=data,
                headers=self._headers,
                timeout=timeout,
            ) as response:
                answer = await response.read()
                if response.status >= 300 and response.status != 404:
                    raise ConsulRefused(response.status, answer.decode(errors="replace"), path)
                index = response.headers.get("X-Consul-Index", "0")
                return response.status, int(index) if index.isdigit() else 0, answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(
                f"Consul at {self._base_url} cannot be reached: {error or type(error).__name__}",
                reason="CONSUL_UNREACHABLE",
                metadata={"url": self._base_url},
            ) from error
