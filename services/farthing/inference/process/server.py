"""The engine's own side: one thread computes, one reads and prepares requests, one says how things stand."""

from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.api.engine.v1 import engine_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.inference import wire
from farthing.inference.batch.admission import Admission, MakeConstraint
from farthing.inference.batch.load import describe_load
from farthing.inference.batch.loop import BatchLoop
from farthing.inference.batch.telling import Emission
from farthing.inference.batch_backend import BatchBackend, TextCodec
from farthing.inference.energy import EnergyMeter
from farthing.inference.process.frames import encode_frame, read_bodies
from farthing.inference.process.rules import EngineRules
from farthing.inference.process.wire import encode_events, encode_report
from farthing.kit.errors import FarthingError, Internal, Unimplemented
from farthing.kit.rpc.failure import encode_failure

_REPORT_S = 0.05
_LONGEST_REPORT_S = 0.2
_IDLE_S = 0.2
_log = logging.getLogger(__name__)


class Embedder(Protocol):
    """Makes vectors. Blocking, one calling thread."""

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: Sequence[Sequence[int]], /) -> NDArray[np.float32]:
        """One vector of length 1 for each. InvalidArgument when one is empty or too long."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A model ready to compute. `facts` say where it runs, for logs and discovery."""

    backend: BatchBackend
    codec: TextCodec
    constrain: MakeConstraint | None = None
    embedder: Embedder | None = None
    weights_bytes: int = 0
    energy: EnergyMeter | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


class EngineServer:
    """Serves one connection, until the other side closes it. `run` in the thread that is to compute."""

    def __init__(self, connection: socket.socket, rules: EngineRules) -> None:
        self._connection, self._rules = connection, rules
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._stopping = threading.Event()
        self._step_started_ns = 0
        self._load = inference_pb2.LoadReport(state=inference_pb2.ENGINE_STATE_READY)
        self._reported_s = self._noted_s = 0.0
        self._crowd = (0, 0, 0)

    def run(self, load: Callable[[], LoadedEngine]) -> None:
        """Load, say so, serve. What cannot be loaded is said instead, and that is the end."""
        try:
            engine = self._engine = load()
            self._loop = BatchLoop(
                engine.backend,
                self._rules.schedule,
                emit=self._emit,
                now_ns=time.perf_counter_ns,
                energy=engine.energy,
            )
            self._loop.warm_up()
        except FarthingError as error:
            self._send(engine_pb2.FromEngine(failure=encode_failure(error)))
            return
        self._admission = Admission(
            engine.backend.model,
            engine.backend.layout,
            engine.codec,
            self._rules.admission,
            constrain=engine.constrain,
        )
        self._send(engine_pb2.FromEngine(ready=self._describe()))
        threads = [
            threading.Thread(target=self._read, name="engine-reader", daemon=True),
            threading.Thread(target=self._report, name="engine-reporter", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._compute()
        finally:
            self._stopping.set()
            engine.backend.close()

    # -- the thread that computes ---------------------------------------------------------

    def _compute(self) -> None:
        while not self._stopping.is_set():
            self._take_in()
            self._step_started_ns = time.perf_counter_ns()
            busy = self._loop.step()
            self._step_started_ns = 0
            if not busy:
                self._note_load()
                self._wait()
            else:
                since_s = time.monotonic() - self._noted_s
                crowd = self._loop.crowd
                if since_s >= _LONGEST_REPORT_S or (
                    since_s >= _REPORT_S and crowd != self._crowd
                ):
                    self._crowd = crowd
                    self._note_load()

    def _take_in(self) -> None:
        try:
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            pass

    def _wait(self) -> None:
        """Until something comes in, or somebody in the line may have waited long enough."""
        try:
            self._inbox.get(timeout=_IDLE_S)()
            came_s = time.monotonic()
            while (left_s := came_s + self._loop.company_us / 1e6 - time.monotonic()) > 0:
                self._inbox.get(timeout=left_s)()
        except queue.Empty:
            pass

    def _note_load(self) -> None:
        backend = self._engine.backend
        self._load = describe_load(
            backend.model,
            backend.layout,
            self._loop.occupancy(),
            self._loop.weights,
            self._loop.totals,
        )
        self._noted_s = time.monotonic()
        self._send_report()

    def _emit(self, emissions: Sequence[Emission]) -> None:
        self._send(encode_events(emissions))

    def _embed(self, asked: engine_pb2.Embed) -> None:
        started_ns = time.perf_counter_ns()
        event = engine_pb2.Event(id=asked.id)
        try:
            self._fill_embeddings(asked, event.embeddings)
        except FarthingError as error:
            event.failure.CopyFrom(encode_failure(error))
        else:
            us = max(1, (time.perf_counter_ns() - started_ns) // 1000)
            usage = event.embeddings.usage
            usage.prefill_us = usage.compute_us = us
            self._loop.totals.busy_us += us
        self._send(engine_pb2.FromEngine(events=[event]))

    def _fill_embeddings(
        self, asked: engine_pb2.Embed, response: inference_pb2.EmbedResponse
    ) -> None:
        engine = self._engine
        model = engine.backend.model
        if engine.embedder is None:
            raise Unimplemented(
                f"Model {model.name} makes no embeddings here.",
                reason="CAPABILITY_MISSING",
                metadata={"model": model.name, "capability": "embeddings"},
            )
        token_lists = [
            [*model.bos_ids, *engine.codec.tokenize(text, special=False)]
            for text in asked.texts
        ]
        for vector in engine.embedder.embed(token_lists):
            response.embeddings.add(values=vector)
        response.model_digest = model.digest
        response.usage.input_token_count = sum(map(len, token_lists))
        response.usage.request_bytes = sum(len(text.encode()) for text in asked.texts)

    # -- the other threads ----------------------------------------------------------------

    def _read(self) -> None:
        try:
            for body in read_bodies(self._connection):
                self._take(engine_pb2.ToEngine.FromString(body))
        except Exception:
            _log.exception("the service's messages cannot be read")
        # The service is gone, or lets go of this engine: whoever asked has gone with it.
        self._stopping.set()
        self._engine.backend.interrupt()
        self._inbox.put(_nothing)

    def _take(self, message: engine_pb2.ToEngine) -> None:
        for start in message.starts:
            self._begin(start)
        for job_id in message.cancel_ids:
            self._inbox.put(lambda job_id=job_id: self._loop.cancel(job_id))  # type: ignore[misc]
        for asked in message.embeds:
            self._inbox.put(lambda asked=asked: self._embed(asked))  # type: ignore[misc]

    def _begin(self, start: engine_pb2.Start) -> None:
        try:
            request = wire.decode_request(start.request)
            job = self._admission.admit(start.id, request, time.perf_counter_ns() // 1000)
        except FarthingError as error:
            self._refuse(start.id, error)
        except Exception:
            _log.exception("a request cannot be prepared", extra={"job_id": start.id})
            self._refuse(
                start.id, Internal("The engine failed at this request.", reason="ENGINE_FAILED")
            )
        else:
            self._inbox.put(lambda: self._loop.start(job))

    def _refuse(self, job_id: int, error: FarthingError) -> None:
        event = engine_pb2.Event(id=job_id, failure=encode_failure(error))
        self._send(engine_pb2.FromEngine(events=[event]))

    def _report(self) -> None:
        while not self._stopping.wait(_LONGEST_REPORT_S / 2):
            if time.monotonic() - self._reported_s >= _LONGEST_REPORT_S / 2:
                self._send_report()

    # -- any thread -----------------------------------------------------------------------

    def _send_report(self) -> None:
        started_ns = self._step_started_ns
        age_us = (time.perf_counter_ns() - started_ns) // 1000 if started_ns else 0
        self._reported_s = time.monotonic()
        report = encode_report(self._load, self._loop.totals, age_us)
        self._send(engine_pb2.FromEngine(report=report))

    def _send(self, message: engine_pb2.FromEngine) -> None:
        frame = encode_frame(message)
        with self._sending:
            try:
                self._connection.sendall(frame)
            except OSError:
                self._stopping.set()

    def _describe(self) -> engine_pb2.Ready:
        engine = self._engine
        layout = engine.backend.layout
        info = wire.encode_model(engine.backend.model)
        if engine.embedder is not None:
            info.embedding_dimension = engine.embedder.dimension
            info.capabilities.append(inference_pb2.CAPABILITY_EMBEDDINGS)
        return engine_pb2.Ready(
            model=info,
            weights_bytes=engine.weights_bytes,
            kv_bytes=layout.token_capacity * layout.token_bytes,
            facts=dict(engine.facts),
        )


def _nothing() -> None:
    """Wakes who waits."""
