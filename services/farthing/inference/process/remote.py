"""The service's side of its engine: requests go in, events come out, and a lost engine is started again."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from farthing.api.engine.v1 import engine_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.inference.process.child import Child
from farthing.inference.process.frames import BrokenStream, FrameReader, encode_frame
from farthing.kit.errors import FarthingError, Unavailable
from farthing.kit.rpc.failure import decode_failure

_WATCH_S = 0.5
_BACKOFF_S = (0.1, 10.0)
_STEADY_S = 30.0  # an engine that has lived so long starts anew without delay
_RETRY_MS = 1_000
_log = logging.getLogger(__name__)

Event = inference_pb2.GenerateResponse


class Observer(Protocol):
    """Told of every request that left the engine, cancelled ones included."""

    def request_done(self, completion: inference_pb2.Completion) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take. An engine that is silent for `silence_s`, or computes one step for `step_s`, hangs."""

    start_s: float = 120.0
    silence_s: float = 5.0
    step_s: float = 60.0


class RemoteEngine:
    """Implements Engine. `spawn` starts the engine's process. Use from one event loop."""

    def __init__(
        self,
        spawn: Callable[[], Child],
        patience: Patience,
        observer: Observer | None = None,
    ) -> None:
        self._spawn, self._patience, self._observer = spawn, patience, observer
        self._ids = itertools.count(1)
        self._streams: dict[int, _Stream] = {}
        self._vectors: dict[int, asyncio.Future[inference_pb2.EmbedResponse]] = {}
        self._link: _Link | None = None
        self._report = engine_pb2.Report()
        self._version = 0
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False
        self.ready = engine_pb2.Ready()
        self.restart_count = 0

    @property
    def info(self) -> inference_pb2.ModelInfo:
        """See Engine."""
        return self.ready.model

    @property
    def report(self) -> engine_pb2.Report:
        """The engine's last word on how it stands."""
        return self._report

    async def start(self) -> None:
        """See Engine. Raises what the engine could not load for; Unavailable when it crashed or took too long."""
        self._link = await self._open()
        self._keeper = asyncio.create_task(self._keep())

    async def close(self, drain_s: float) -> None:
        """See Engine."""
        self._closing = True
        self._bump()
        deadline = asyncio.get_running_loop().time() + drain_s
        while self._streams and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.wait_for(self.load_changed(self._version), left_s)
            except TimeoutError:
                break
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._link is not None:
            await self._link.end()
        self._lose(_closing_error())

    async def generate(self, request: inference_pb2.GenerateRequest) -> AsyncGenerator[Event]:
        """See Engine."""
        job_id, stream = next(self._ids), _Stream()
        self._send(engine_pb2.ToEngine(starts=[engine_pb2.Start(id=job_id, request=request)]))
        self._streams[job_id] = stream
        try:
            async for event in stream.events():
                yield event
        finally:
            self._streams.pop(job_id, None)
            if not stream.ended and self._link is not None:
                self._link.send(engine_pb2.ToEngine(cancel_ids=[job_id]))
            if self._closing:
                self._bump()

    async def embed(self, texts: list[str]) -> inference_pb2.EmbedResponse:
        """See Engine."""
        job_id = next(self._ids)
        answer: asyncio.Future[inference_pb2.EmbedResponse] = (
            asyncio.get_running_loop().create_future()
        )
        self._send(engine_pb2.ToEngine(embeds=[engine_pb2.Embed(id=job_id, texts=texts)]))
        self._vectors[job_id] = answer
        try:
            return await answer
        finally:
            self._vectors.pop(job_id, None)

    def load(self) -> tuple[int, inference_pb2.LoadReport]:
        """See Engine."""
        if self._link is None or self._closing:
            speeds = self._report.load.speeds
            starting = inference_pb2.ENGINE_STATE_STARTING
            return self._version, inference_pb2.LoadReport(state=starting, speeds=speeds)
        return self._version, self._report.load

    async def load_changed(self, version: int) -> None:
        """See Engine."""
        while self._version == version:
            await self._changed.wait()

    # -- the engine's process -------------------------------------------------------------

    async def _open(self) -> _Link:
        child = self._spawn()
        link = _Link(child, self._take)
        try:
            await link.connect()
            async with asyncio.timeout(self._patience.start_s):
                first = await link.first
        except TimeoutError:
            await link.end(kill=True)
            raise Unavailable(
                f"the engine was not ready after {self._patience.start_s:.0f} s; use a smaller model or a longer"
                " start time",
                reason="ENGINE_START_TIMEOUT",
            ) from None
        except BaseException:
            await link.end(kill=True)
            raise
        if first is None:
            raise Unavailable(
                f"the engine ended while it loaded the model: {await link.end(kill=True)}",
                reason="ENGINE_CRASHED",
            )
        if first.HasField("failure"):
            await link.end()
            raise decode_failure(first.failure)
        self.ready = first.ready
        link.opened_s = asyncio.get_running_loop().time()
        self._report = engine_pb2.Report(
            load=inference_pb2.LoadReport(state=inference_pb2.ENGINE_STATE_STARTING)
        )
        return link

    async def _keep(self) -> None:
        """Watch the engine; when it is lost, tell whoever waits and start another."""
        delay_s, _ = _BACKOFF_S
        while True:
            link = self._link
            assert link is not None
            why = await self._watch(link)
            self._link = None
            loop = asyncio.get_running_loop()
            lived_s = loop.time() - link.opened_s
            self._lose(_lost_error())
            self._bump()
            end = await link.end(kill=True)
            _log.error("the engine was lost: %s (%s); starting it again", why, end)
            self.restart_count += 1
            delay_s = _BACKOFF_S[0] if lived_s > _STEADY_S else min(2 * delay_s, _BACKOFF_S[1])
            while self._link is None:
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                try:
                    self._link = await self._open()
                except FarthingError as error:
                    delay_s = min(2 * delay_s, _BACKOFF_S[1])
                    _log.error("the engine does not start: %s", error.message)
            _log.info("the engine is ready again", extra={"model": self.info.name})
            self._bump()

    async def _watch(self, link: _Link) -> str:
        """Returns why the engine is given up."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await asyncio.wait_for(asyncio.shield(link.lost), _WATCH_S)
                return link.problem
            except TimeoutError:
                pass
            if loop.time() - link.heard_s > self._patience.silence_s:
                return f"it said nothing for {self._patience.silence_s:.0f} s"
            if self._report.step_age_us > self._patience.step_s * 1e6:
                return f"one step took longer than {self._patience.step_s:.0f} s"

    def _take(self, message: engine_pb2.FromEngine) -> None:
        for event in message.events:
            kind = event.WhichOneof("event")
            if kind == "embeddings" or (kind == "failure" and event.id in self._vectors):
                self._take_vectors(event)
                continue
            stream = self._streams.get(event.id)
            if kind == "completion" and self._observer is not None:
                self._observer.request_done(event.completion)
            if stream is None:
                continue
            if kind == "delta":
                stream.put(event.delta)
            elif kind == "completion":
                stream.end(event.completion)
            else:
                stream.end(decode_failure(event.failure))
        if message.HasField("report"):
            self._report = message.report
            self._bump()

    def _take_vectors(self, event: engine_pb2.Event) -> None:
        answer = self._vectors.get(event.id)
        if answer is None or answer.done():
            return
        if event.HasField("failure"):
            answer.set_exception(decode_failure(event.failure))
        else:
            answer.set_result(event.embeddings)

    def _send(self, message: engine_pb2.ToEngine) -> None:
        if self._closing:
            raise _closing_error()
        if self._link is None:
            raise _lost_error()
        self._link.send(message)

    def _lose(self, error: FarthingError) -> None:
        streams, self._streams = list(self._streams.values()), {}
        vectors, self._vectors = list(self._vectors.values()), {}
        for stream in streams:
            stream.end(error)
        for answer in vectors:
            if not answer.done():
                answer.set_exception(error)

    def _bump(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


class _Stream:
    """Events of one request, read by one task. It holds no more than one answer."""

    def __init__(self) -> None:
        self._ready: deque[inference_pb2.Delta] = deque()
        self._end: inference_pb2.Completion | FarthingError | None = None
        self.ended = False  # whether the engine is done with the request
        self._wake: asyncio.Future[None] | None = None

    def put(self, delta: inference_pb2.Delta) -> None:
        self._ready.append(delta)
        self._wake_up()

    def end(self, end: inference_pb2.Completion | FarthingError) -> None:
        if not self.ended:
            self.ended, self._end = True, end
        self._wake_up()

    async def events(self) -> AsyncGenerator[Event]:
        """Yield the events, joining deltas that are ready at the same time."""
        while True:
            if self._ready:
                yield Event(delta=self._join())
            elif self.ended:
                yield Event(completion=self._take_end())
                return
            else:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake

    def _take_end(self) -> inference_pb2.Completion:
        """Raises it if it is an error, which is not kept: its traceback leads back here."""
        end, self._end = self._end, None
        try:
            if isinstance(end, FarthingError):
                raise end
            assert end is not None
            return end
        finally:
            del end

    def _join(self) -> inference_pb2.Delta:
        first = self._ready.popleft()
        if not self._ready:
            return first
        texts = [first.text]
        while self._ready:
            other = self._ready.popleft()
            texts.append(other.text)
            first.token_count += other.token_count
            first.logprobs.extend(other.logprobs)
        first.text = "".join(texts)
        return first

    def _wake_up(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)


class _Link(asyncio.Protocol):
    """The connection to one engine's process."""

    def __init__(self, child: Child, take: Callable[[engine_pb2.FromEngine], None]) -> None:
        loop = asyncio.get_running_loop()
        self._child, self._take, self._loop = child, take, loop
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.first: asyncio.Future[engine_pb2.FromEngine | None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.problem = "its process ended"
        self.heard_s = self.opened_s = loop.time()

    async def connect(self) -> None:
        """Begin to listen."""
        self._child.connection.setblocking(False)
        self._transport, _ = await self._loop.create_connection(
            lambda: self, sock=self._child.connection
        )

    def send(self, message: engine_pb2.ToEngine) -> None:
        """Send without waiting; a lost engine takes nothing, and its loss is told elsewhere."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(message))

    async def end(self, *, kill: bool = False) -> str:
        """Close the connection, at which the engine ends by itself, or kill it. Returns how it ended."""
        if kill:
            self._child.kill()
        if self._transport is not None:
            self._transport.close()
        else:
            self._child.connection.close()
        try:
            async with asyncio.timeout(5):
                return await asyncio.to_thread(self._child.describe_end)
        except TimeoutError:
            self._child.kill()
            return await asyncio.to_thread(self._child.describe_end)

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._loop.time()
        try:
            for body in self._reader.feed(data):
                message = engine_pb2.FromEngine.FromString(body)
                if self.first.done():
                    self._take(message)
                else:
                    self.first.set_result(message)
        except (BrokenStream, ValueError) as error:
            self.problem = f"it sent what is no message: {error}"
            self._give_up()

    def connection_lost(self, error: Exception | None) -> None:
        self._give_up()

    def _give_up(self) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if not self.lost.done():
            self.lost.set_result(None)


def _lost_error() -> Unavailable:
    return Unavailable(
        "The engine was lost and starts again. Use another instance, or try again soon.",
        reason="ENGINE_RESTARTING",
        retry_after_ms=_RETRY_MS,
    )


def _closing_error() -> Unavailable:
    return Unavailable("The instance is closing. Use another one.", reason="CLOSING")
