"""Messages on a stream of bytes: each after its length in four bytes, little-endian."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from struct import Struct

from google.protobuf.message import Message

_LENGTH = Struct("<I")
# Far above any prompt that gRPC lets in; a longer one is not a message but a broken stream.
MOST_BYTES = 64 * 1024 * 1024


class BrokenStream(Exception):
    """The bytes are no messages."""


def encode_frame(message: Message) -> bytes:
    """One message as it travels."""
    body = message.SerializeToString()
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts what arrives into messages' bodies."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete with `data`. BrokenStream when they cannot be."""
        held = self._held
        held += data
        place = 0
        while len(held) - place >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(held, place)
            if size > MOST_BYTES:
                raise BrokenStream(f"a message of {size} bytes")
            end = place + _LENGTH.size + size
            if end > len(held):
                break
            yield bytes(held[place + _LENGTH.size : end])
            place = end
        del held[:place]


def read_bodies(connection: socket.socket) -> Iterator[bytes]:
    """Bodies from a blocking socket until the other side closes it."""
    reader = FrameReader()
    while data := connection.recv(1 << 16):
        yield from reader.feed(data)
