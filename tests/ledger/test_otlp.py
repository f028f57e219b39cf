"""OTLP intake on real sockets, fed by the OpenTelemetry SDK's own exporters and by hostile hands."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpExporter,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import decode_error
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.testing import serve
from farthing.ledger.core.spans import Span
from farthing.ledger.listeners import listen
from farthing.ledger.otlp.decode import MAX_TEXT_LENGTH, decode_request
from farthing.ledger.otlp.intake import SpanIntake
from farthing.ledger.otlp.receivers import TraceServicer, add_trace_servicer, make_http_receiver
from farthing.ledger.store import MemoryLedgerStore

TRACE = bytes(range(16))
PROTOBUF = {"Content-Type": "application/x-protobuf"}


class GatedStore(MemoryLedgerStore):
    """A store whose disk can be made to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def record_spans(self, spans: Sequence[Span]) -> int:
        self.entered.set()
        await self.gate.wait()
        return await super().record_spans(spans)


@pytest.fixture
async def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
def intake(store: GatedStore) -> SpanIntake:
    return SpanIntake(store, Metrics("ledger"), max_waiting_count=4)


@pytest.fixture
async def grpc_receiver(intake: SpanIntake) -> AsyncIterator[tuple[Any, str]]:
    async with serve((add_trace_servicer, TraceServicer(intake))) as (channel, address):
        yield trace_service_pb2_grpc.TraceServiceStub(channel), address  # type: ignore[no-untyped-call]


@pytest.fixture
async def http_receiver(intake: SpanIntake) -> AsyncIterator[str]:
    runner, port = await listen(make_http_receiver(intake), "127.0.0.1", 0, env="X")
    yield f"http://127.0.0.1:{port}/v1/traces"
    await runner.cleanup()


@pytest.fixture
def finished_spans() -> list[ReadableSpan]:
    """Two spans as a foreign program makes them with the SDK."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(
        resource=Resource.create({"service.name": "notebook", "cloud.region": "edge-site"})
    )
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("ask", kind=SpanKind.SERVER):
        with tracer.start_as_current_span("chat lab-small", kind=SpanKind.CLIENT) as leaf:
            leaf.set_attributes(
                {
                    "gen_ai.usage.input_tokens": 12,
                    "gen_ai.usage.output_tokens": 30,
                    "farthing.cost.nano_usd": 4_500,
                    "gen_ai.request.stream": True,
                    "gen_ai.response.finish_reasons": ("stop",),
                }
            )
            leaf.add_event("farthing.decision", {"farthing.decision.reason": "cheapest"})
            leaf.set_status(Status(StatusCode.ERROR, "cut"))
    provider.shutdown()
    return list(kept.get_finished_spans())


async def check_kept(store: MemoryLedgerStore, sent: list[ReadableSpan]) -> None:
    context = sent[0].context
    assert context is not None
    root, leaf = await store.trace_spans(f"{context.trace_id:032x}")
    assert (root.name, root.kind, root.parent_span_id) == ("ask", "server", "")
    assert (leaf.name, leaf.kind, leaf.parent_span_id) == (
        "chat lab-small", "client", root.span_id
    )  # fmt: skip
    assert (leaf.service_name, leaf.region, leaf.status) == ("notebook", "edge-site", "error")
    assert (leaf.cost_nano_usd, leaf.token_count, root.cost_nano_usd) == (4_500, 42, None)
    assert leaf.attributes["gen_ai.request.stream"] == "true"
    assert leaf.attributes["gen_ai.response.finish_reasons"] == '["stop"]'
    assert leaf.attributes["status.message"] == "cut"
    assert leaf.events[0].attributes == {"farthing.decision.reason": "cheapest"}
    assert leaf.end_ns > leaf.start_ns > 1_700_000_000_000_000_000


async def test_the_sdk_exports_over_grpc_and_a_repeat_changes_nothing(
    grpc_receiver: tuple[Any, str], store: GatedStore, finished_spans: list[ReadableSpan]
) -> None:
    exporter = GrpcExporter(endpoint=f"http://{grpc_receiver[1]}", insecure=True)
    for _ in range(2):
        result = await asyncio.to_thread(exporter.export, finished_spans)
        assert result is SpanExportResult.SUCCESS
    await asyncio.to_thread(exporter.shutdown)
    await check_kept(store, finished_spans)
    assert (await store.books()).span_count == 2


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_the_sdk_exports_over_http(
    http_receiver: str,
    store: GatedStore,
    finished_spans: list[ReadableSpan],
    compression: Compression,
) -> None:
    exporter = HttpExporter(endpoint=http_receiver, compression=compression)
    result = await asyncio.to_thread(exporter.export, finished_spans)
    assert result is SpanExportResult.SUCCESS
    await asyncio.to_thread(exporter.shutdown)
    await check_kept(store, finished_spans)


async def test_json_with_hex_ids_unknown_fields_and_gzip_is_taken(
    http_receiver: str, store: GatedStore
) -> None:
    span = {
        "traceId": "0AF7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
        "name": "from a browser",
        "kind": 3,
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000000500000000",
        "attributes": [{"key": "n", "value": {"intValue": "7"}}],
        "newField": {"of": "a later version"},
    }
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    body = gzip.compress(json.dumps(document).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with aiohttp.ClientSession() as session:
        async with session.post(http_receiver, data=body, headers=headers) as response:
            assert (response.status, await response.json()) == (200, {})
    (kept,) = await store.trace_spans("0af7651916cd43dd8448eb211c80319c")
    assert (kept.name, kept.kind, kept.attributes) == ("from a browser", "client", {"n": "7"})


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"\xff\xff\xff", "application/x-protobuf", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"resourceSpans": 7}', "application/json", 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz"}]}]}]}',
         "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"", "text/plain", 415),
    ],
)  # fmt: skip
async def test_what_is_no_export_is_refused_for_good(
    http_receiver: str, store: GatedStore, body: bytes, content_type: str, status: int
) -> None:
    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": content_type}
        async with session.post(http_receiver, data=body, headers=headers) as response:
            assert response.status == status
    assert (await store.books()).span_count == 0


async def test_a_zip_bomb_is_refused_by_its_unpacked_size(http_receiver: str) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    headers = PROTOBUF | {"Content-Encoding": "gzip"}
    async with aiohttp.ClientSession() as session:
        async with session.post(http_receiver, data=bomb, headers=headers) as response:
            assert response.status in (400, 413)


def build_request(*span_ids: bytes, **fields: Any) -> ExportTraceServiceRequest:
    values: dict[str, Any] = {
        "trace_id": TRACE, "name": "n", "start_time_unix_nano": 5, "end_time_unix_nano": 9
    }  # fmt: skip
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for span_id in span_ids:
        spans.append(trace_pb2.Span(**(values | {"span_id": span_id} | fields)))
    return request


async def test_good_spans_are_kept_and_bad_ones_told_as_partial_success(
    grpc_receiver: tuple[Any, str], http_receiver: str, store: GatedStore
) -> None:
    request = build_request(b"12345678", b"short", bytes(8))
    response = await grpc_receiver[0].Export(request)
    assert response.partial_success.rejected_spans == 2
    assert "span_id" in response.partial_success.error_message
    async with aiohttp.ClientSession() as session:
        body = request.SerializeToString()
        async with session.post(http_receiver, data=body, headers=PROTOBUF) as answer:
            told = ExportTraceServiceResponse.FromString(await answer.read())
    assert told.partial_success.rejected_spans == 2
    assert (await store.books()).span_count == 1


async def test_when_too_many_wait_the_sender_is_told_to_come_again(
    grpc_receiver: tuple[Any, str], http_receiver: str, store: GatedStore
) -> None:
    store.gate.clear()
    stub = grpc_receiver[0]
    first = asyncio.ensure_future(
        stub.Export(build_request(b"11111111", b"22222222", b"33333333"))
    )
    await store.entered.wait()
    overfull = build_request(b"44444444", b"55555555")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Export(overfull)
    error = decode_error(caught.value)
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after_ms) == ("SPAN_QUEUE_FULL", 1_000)
    async with aiohttp.ClientSession() as session:
        body = overfull.SerializeToString()
        async with session.post(http_receiver, data=body, headers=PROTOBUF) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
    store.gate.set()
    await first
    await stub.Export(overfull)
    assert (await store.books()).span_count == 5


@pytest.mark.parametrize("cost", ["-5", "1e9", "9" * 30, "", "٣", "4.5"])
def test_a_cost_that_is_no_amount_is_no_cost(cost: str) -> None:
    request = build_request(b"12345678")
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.add(key="farthing.cost.nano_usd").value.string_value = cost
    (kept,) = decode_request(request).spans
    assert kept.cost_nano_usd is None


def test_hostile_sizes_are_cut() -> None:
    request = build_request(b"12345678", name="n" * 10_000)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    for number in range(500):
        span.attributes.add(key=f"k{number}").value.string_value = "v"
        span.events.add(name="e", time_unix_nano=2**64 - 1)
    span.attributes[0].value.string_value = "x" * 1_000_000
    (kept,) = decode_request(request).spans
    assert (len(kept.name), len(kept.attributes), len(kept.events)) == (512, 128, 128)
    assert len(kept.attributes["k0"]) == MAX_TEXT_LENGTH


@pytest.mark.parametrize(
    "fields",
    [
        {"trace_id": bytes(16)},
        {"parent_span_id": b"x"},
        {"start_time_unix_nano": 0},
        {"start_time_unix_nano": 2**64 - 1, "end_time_unix_nano": 2**64 - 1},
        {"end_time_unix_nano": 4},
    ],
)
def test_spans_that_cannot_be_placed_are_rejected(fields: dict[str, Any]) -> None:
    decoded = decode_request(build_request(b"12345678", **fields))
    assert (decoded.spans, decoded.rejected_count) == ([], 1)
    assert decoded.message
