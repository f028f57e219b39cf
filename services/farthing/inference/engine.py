"""The seam between servicers and engines: requests in, events out, asynchronous."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from farthing.api.inference.v1 import inference_pb2


class Engine(Protocol):
    """Serves one model to many requests, in inference.v1's own messages."""

    @property
    def info(self) -> inference_pb2.ModelInfo:
        """The model; of no use before `start`."""

    async def start(self) -> None:
        """Begin to serve. Called once."""

    async def close(self, drain_s: float) -> None:
        """Take no more requests, give the others `drain_s` seconds, free the model."""

    def generate(
        self, request: inference_pb2.GenerateRequest
    ) -> AsyncGenerator[inference_pb2.GenerateResponse]:
        """Answer a checked request for one candidate: deltas, then one completion.

        Before the first event it may raise InvalidArgument (prompt and answer do not fit the context, bad schema),
        NotFound (no such adapter), ResourceExhausted (queue full, or too long in it), Unavailable (closing, or the
        engine was lost), Unimplemented (the model cannot do what is asked) or Internal; after it, Unavailable.
        `aclose()` or cancellation frees the engine by the next step.
        """

    async def embed(self, texts: list[str]) -> inference_pb2.EmbedResponse:
        """A vector of length 1 for each text. InvalidArgument, Unimplemented, Unavailable."""

    def load(self) -> tuple[int, inference_pb2.LoadReport]:
        """The load at this moment, and a version that is another whenever it has changed."""

    async def load_changed(self, version: int) -> None:
        """Return when the load's version is another than this one."""
