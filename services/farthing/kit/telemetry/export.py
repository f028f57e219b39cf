"""Carries recorded spans to an OTLP/gRPC receiver from a thread of its own; keeps them, in order, while it is away."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from farthing.kit.telemetry import names
from farthing.kit.telemetry.encode import SpanEncoder
from farthing.kit.telemetry.spans import SpanRecord, SpanRecorder
from farthing.kit.version import __version__

_LOG = logging.getLogger("farthing.telemetry")
# Each batch costs the event loop some ten changes of thread, 3 ms of CPU on a busy small machine: hence not more often.
_PERIOD_S = 1.0
_BATCH_COUNT = 2048
_BATCH_BYTES = 2 << 20  # receivers take 4 MiB by default
_SLICE_COUNT = 128  # about 1 ms
_PAUSE_S = 0.0005
_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 5.0
_GIVE_UP_AFTER_S = 300.0  # a batch refused for this long is taken to be unwanted


class SpanSender(Protocol):
    """Delivers one batch; blocking. Called from the exporter's thread alone."""

    def send(self, spans: Sequence[bytes]) -> bool:
        """True once the receiver has the spans, each as SpanEncoder makes it."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class SpanExporter:
    """Drains a recorder every second, sooner when 2048 spans wait. Order is kept; a batch is sent until it is taken."""

    def __init__(
        self, recorder: SpanRecorder, endpoint: str, resource: Mapping[str, str]
    ) -> None:
        self._recorder = recorder
        self._endpoint = endpoint
        self._resource = resource
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="span-exporter", daemon=True)
        self._encoder = SpanEncoder()
        self._sender: SpanSender | None = None
        self._reachable = True

    def start(self) -> None:
        """Start the thread."""
        self._recorder.on_full_batch(self._wake.set)
        self._thread.start()

    async def stop(self, timeout_s: float = 3.0) -> None:
        """Send what is left, at most for `timeout_s`; spans that could not be sent count as dropped."""
        self._stopping.set()
        self._wake.set()
        self._recorder.on_full_batch(None)
        await asyncio.to_thread(self._thread.join, timeout_s)
        sender = self._sender
        if self._thread.is_alive() and sender is not None:
            sender.close()  # ends a send that still waits for its receiver
            await asyncio.to_thread(self._thread.join, timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait(_PERIOD_S)
            self._wake.clear()
            stopping = self._stopping.is_set()
            self._send_waiting()
            while stopping and self._recorder.waiting_count:
                self._send_waiting()
            if stopping:
                break
        if self._sender is not None:
            self._sender.close()

    def _send_waiting(self) -> None:
        """Send what waits now, or of more than a batch the full ones: what has come since has company later."""
        due_count = self._recorder.waiting_count
        if due_count > _BATCH_COUNT:
            due_count -= due_count % _BATCH_COUNT
        while due_count > 0:
            batch = self._encode_batch(min(due_count, _BATCH_COUNT))
            if not batch:
                break
            if self._sender is None:
                self._sender = self._open()
            self._deliver(self._sender, batch)
            due_count -= len(batch)

    def _encode_batch(self, limit_count: int) -> list[bytes]:
        """Take and encode spans, in slices: between two of them the event loop gets the interpreter."""
        batch: list[bytes] = []
        size = taken_count = 0
        while len(batch) < limit_count and size < _BATCH_BYTES:
            record = self._recorder.take()
            if record is None:
                break
            encoded = self._encode(record)
            if encoded is not None:
                batch.append(encoded)
                size += len(encoded)
            taken_count += 1
            if taken_count % _SLICE_COUNT == 0 and not self._stopping.is_set():
                time.sleep(_PAUSE_S)
        return batch

    def _encode(self, record: SpanRecord) -> bytes | None:
        try:
            return self._encoder.encode(record)
        except Exception:
            _LOG.exception("span %r could not be encoded", record.name)
            self._recorder.count_dropped(1)
            return None

    def _open(self) -> SpanSender:
        # In this thread, at the first batch: no service starts later for these imports.
        from farthing.kit.telemetry.otlp import OtlpSender

        return OtlpSender(self._endpoint, self._resource)

    def _deliver(self, sender: SpanSender, batch: Sequence[bytes]) -> None:
        backoff_s = _FIRST_BACKOFF_S
        give_up_at = time.monotonic() + _GIVE_UP_AFTER_S
        while not self._try_send(sender, batch):
            # When stopping, one more refusal means that nobody is there to take the rest.
            if self._stopping.is_set() or time.monotonic() > give_up_at:
                self._recorder.count_dropped(len(batch))
                return
            self._stopping.wait(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _try_send(self, sender: SpanSender, batch: Sequence[bytes]) -> bool:
        try:
            sent = sender.send(batch)
        except Exception:
            _LOG.exception("a batch of %d spans could not be sent", len(batch))
            self._recorder.count_dropped(len(batch))
            return True
        if sent != self._reachable:
            self._reachable = sent
            if sent:
                _LOG.info("spans reach %s again", self._endpoint)
            else:
                _LOG.warning("spans do not reach %s; kept and sent again", self._endpoint)
        return sent


def build_resource(*, service: str, instance_id: str, region: str) -> dict[str, str]:
    """What every span of a process says of where it comes from."""
    return {
        names.SERVICE_NAMESPACE: names.NAMESPACE_FARTHING,
        names.SERVICE_NAME: service,
        names.SERVICE_VERSION: __version__,
        names.SERVICE_INSTANCE_ID: instance_id,
        names.CLOUD_REGION: region,
    }
