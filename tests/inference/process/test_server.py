"""The engine's own loop: who begins together when an idle engine is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from tests.inference.process.test_remote import ask
from tests.support.toy_backend import ToyBackend, ToyCodec

from farthing.api.engine.v1 import engine_pb2
from farthing.inference.batch.loop import BatchLoop
from farthing.inference.batch_backend import SlotLayout, SlotWork, StepOutput
from farthing.inference.process.frames import FrameReader, encode_frame
from farthing.inference.process.rules import EngineRules
from farthing.inference.process.server import EngineServer, LoadedEngine


class Watched(ToyBackend):
    """Notes how many rows each step has."""

    def __init__(self) -> None:
        super().__init__(SlotLayout(2, 500, 1_000, 256, 8, groups_prompts=True))
        self.row_counts: list[int] = []

    def step(self, work: Sequence[SlotWork], adapter: str = "") -> StepOutput:
        self.row_counts.append(len(work))
        return super().step(work, adapter)


class Client:
    """The service's end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._connection, self._reader = connection, FrameReader()

    def messages(self) -> Iterator[engine_pb2.FromEngine]:
        while data := self._connection.recv(1 << 16):
            yield from map(engine_pb2.FromEngine.FromString, self._reader.feed(data))
        raise AssertionError("the engine ended")

    def begin(self, *job_ids: int) -> None:
        for job_id in job_ids:
            start = engine_pb2.Start(id=job_id, request=ask(f"question {job_id}", max_tokens=3))
            self._connection.sendall(encode_frame(engine_pb2.ToEngine(starts=[start])))

    def wait_for_end(self, *job_ids: int) -> None:
        left = set(job_ids)
        for message in self.messages():
            assert not any(event.HasField("failure") for event in message.events)
            left -= {event.id for event in message.events if event.HasField("completion")}
            if not left:
                return


@contextmanager
def serving(backend: Watched) -> Iterator[Client]:
    ours, its = socket.socketpair()
    server = EngineServer(its, EngineRules())
    thread = threading.Thread(
        target=server.run, args=[lambda: LoadedEngine(backend, ToyCodec())]
    )
    thread.start()
    try:
        client = Client(ours)
        next(message for message in client.messages() if message.HasField("ready"))
        backend.row_counts.clear()  # it has warmed up
        yield client
    finally:
        ours.close()
        thread.join(30)
        its.close()
    assert not thread.is_alive()


def test_who_comes_to_an_idle_engine_meanwhile_begins_with_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patience for one request is long here, and for two there is none."""
    monkeypatch.setattr(
        BatchLoop, "company_us", property(lambda loop: 30e6 if len(loop._jobs) == 1 else 0.0)
    )
    backend = Watched()
    with serving(backend) as client:
        client.begin(1, 2)
        client.wait_for_end(1, 2)
    assert backend.row_counts == [2, 2, 2]


def test_whoever_comes_alone_is_answered_alone() -> None:
    backend = Watched()
    with serving(backend) as client:
        client.begin(1)
        client.wait_for_end(1)
    assert backend.row_counts == [1, 1, 1]
