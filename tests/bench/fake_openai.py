"""An OpenAI upstream that answers at once, so that a benchmark of a proxy sees the proxy: a bare protocol.

`python -m tests.bench.fake_openai PORT` serves; any POST is a chat completion of BENCH_TOKENS tokens.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import cast

import uvloop

_COUNT = int(os.environ.get("BENCH_TOKENS", "10"))
_HEAD = {"id": "chatcmpl-bench", "created": 1_750_000_000, "model": "bench"}
_USAGE = {"prompt_tokens": 40, "completion_tokens": _COUNT, "total_tokens": 40 + _COUNT}


def _whole() -> bytes:
    message = {"role": "assistant", "content": "token " * _COUNT}
    body = json.dumps(
        {
            **_HEAD,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _USAGE,
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def _stream() -> list[bytes]:
    """The writes of a streamed answer: one a token, as engines do it."""

    def event(delta: dict[str, str], reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
        return _chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
    tokens = [event({"content": "token "}, None) for _ in range(_COUNT)]
    end = event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [
        head + b"\r\n\r\n" + event({"role": "assistant", "content": ""}, None),
        *tokens,
        end,
    ]


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


class Upstream(asyncio.Protocol):
    """One connection with keep-alive; requests come one after another."""

    whole, stream = _whole(), _stream()

    def __init__(self) -> None:
        self._kept = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio.Transport's children, only its like.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._kept += data
        while (end := self._kept.find(b"\r\n\r\n")) >= 0:
            head = self._kept[:end].lower()
            _, _, length = head.partition(b"\r\ncontent-length:")
            whole = end + 4 + int(length.partition(b"\r\n")[0] or 0)
            if len(self._kept) < whole:
                return
            body, self._kept = self._kept[end + 4 : whole], self._kept[whole:]
            if body and json.loads(body).get("stream"):
                for part in self.stream:
                    self._transport.write(part)
            else:
                self._transport.write(self.whole)


async def serve(port: int) -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
