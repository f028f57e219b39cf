"""Spans to an OTLP/gRPC receiver through opentelemetry-sdk's exporter. Imported by the exporter's thread alone.

gRPC rather than HTTP by measurement: imports and buffers cost 16 MiB either way, and gRPC is in the process already.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace.export import SpanExportResult

from farthing.kit.telemetry.encode import BatchEncoder

_SEND_TIMEOUT_S = 5.0
_SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"]


class OtlpSender:
    """SpanSender over opentelemetry-sdk's OTLP/gRPC exporter."""

    def __init__(self, endpoint: str, resource: Mapping[str, str]) -> None:
        # Its own log repeats every failed attempt; SpanExporter says once what changed.
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").setLevel(
            logging.CRITICAL + 1
        )
        insecure = not endpoint.startswith("https://")
        self._exporter = _EncodedExporter(BatchEncoder(resource), endpoint, insecure)

    def send(self, spans: Sequence[bytes]) -> bool:
        """See SpanSender."""
        return self._exporter.export(spans) is SpanExportResult.SUCCESS  # type: ignore[arg-type]

    def close(self) -> None:
        """See SpanSender."""
        self._exporter.shutdown(timeout_millis=1_000)


class _EncodedExporter(OTLPSpanExporter):
    """OpenTelemetry's exporter with its retries, TLS, headers and environment variables, for spans that are encoded.

    Through two methods that it has: the one that makes a request of the data, and the one that makes a stub of a
    channel, at first and whenever it connects again.
    """

    def __init__(self, batches: BatchEncoder, endpoint: str, insecure: bool) -> None:
        self._batches = batches
        super().__init__(endpoint=endpoint, insecure=insecure, timeout=_SEND_TIMEOUT_S)

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[no-untyped-call]
        self._client = _EncodedStub(self._channel)  # type: ignore[assignment]

    def _translate_data(self, data: Any) -> Any:
        return self._batches.encode(data)


class _EncodedStub:
    """The generated stub but for its serializer: the request is bytes already."""

    def __init__(self, channel: Any) -> None:
        self.Export = channel.unary_unary(
            f"/{_SERVICE.full_name}/Export",
            response_deserializer=trace_service_pb2.ExportTraceServiceResponse.FromString,
        )
