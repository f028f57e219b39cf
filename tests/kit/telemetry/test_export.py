"""Export to a real OTLP receiver on a real socket: everything arrives, in order, also after the receiver was away."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from farthing.kit.telemetry import names
from farthing.kit.telemetry.export import SpanExporter, build_resource
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.kit.testing import eventually, free_port

RESOURCE = build_resource(service="router", instance_id="router-1", region="edge-site")


class Receiver(services.TraceServiceServicer):
    """Takes spans as a collector does; may refuse the first requests."""

    def __init__(self, refuse_count: int = 0) -> None:
        self.requests: list[messages.ExportTraceServiceRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.refused_count = 0
        self._refuse_count = refuse_count

    def Export(
        self, request: messages.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> messages.ExportTraceServiceResponse:
        if self.refused_count < self._refuse_count:
            self.refused_count += 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not now")
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        return messages.ExportTraceServiceResponse()

    def spans(self) -> list[WireSpan]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def listen(receiver: Receiver, port: int) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(1))
    services.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def receiver(port: int) -> Iterator[Receiver]:
    receiver = Receiver()
    server = listen(receiver, port)
    yield receiver
    server.stop(0).wait()


def endpoint(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def test_a_span_arrives_whole(receiver: Receiver, port: int) -> None:
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    root = recorder.start("root", names.KIND_SERVER)
    child = recorder.start(
        "chat edge-small", names.KIND_CLIENT, root.context, {names.TASK: "math"}
    )
    child.set(names.COST_NANO_USD, 1_234_567)
    child.set(names.GEN_AI_RESPONSE_FINISH_REASONS, ("stop",))
    child.event(names.EVENT_FIRST_TOKEN, {"token": 1})
    child.end("error", "engine failed")
    root.end("ok")
    await exporter.stop()
    child_span, root_span = receiver.spans()
    assert child_span.parent_span_id == root_span.span_id
    assert child_span.trace_id.hex() == root.context.trace_id
    assert child_span.kind == WireSpan.SPAN_KIND_CLIENT
    values = {pair.key: pair.value for pair in child_span.attributes}
    assert values[names.COST_NANO_USD].int_value == 1_234_567
    assert values[names.TASK].string_value == "math"
    assert [event.name for event in child_span.events] == [names.EVENT_FIRST_TOKEN]
    assert child_span.status.message == "engine failed"
    assert root_span.end_time_unix_nano >= child_span.end_time_unix_nano
    resource = {
        pair.key: pair.value.string_value
        for pair in receiver.requests[0].resource_spans[0].resource.attributes
    }
    assert resource[names.SERVICE_NAME] == "router"
    assert resource[names.CLOUD_REGION] == "edge-site"


async def test_spans_of_several_batches_arrive_once_and_in_order(
    receiver: Receiver, port: int
) -> None:
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    for number in range(1500):
        recorder.start(str(number)).end()
    await exporter.stop()
    assert [span.name for span in receiver.spans()] == [str(number) for number in range(1500)]
    assert recorder.dropped_count == 0


async def test_large_spans_go_in_requests_that_receivers_take(
    receiver: Receiver, port: int
) -> None:
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    for number in range(100):
        recorder.start(str(number), attributes={names.DECISION_REJECTED: "x" * 50_000}).end()
    await exporter.stop()
    assert [span.name for span in receiver.spans()] == [str(number) for number in range(100)]
    assert max(request.ByteSize() for request in receiver.requests) < 3 << 20


async def test_a_span_that_cannot_be_encoded_is_counted_and_loses_no_other(
    receiver: Receiver, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = SpanRecorder(now_ns=lambda: 1 << 70 if broken else 1)
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    for name in ("first", "odd", "second"):
        broken = name == "odd"  # a clock far beyond OTLP's range
        recorder.start(name).end()
    await exporter.stop()
    assert [span.name for span in receiver.spans()] == ["first", "second"]
    assert recorder.dropped_count == 1
    assert "'odd' could not be encoded" in caplog.text


async def test_the_sdks_environment_variables_hold(
    receiver: Receiver, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=acme")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    recorder.start("work").end()
    await exporter.stop()
    assert [span.name for span in receiver.spans()] == ["work"]
    assert receiver.metadata[0]["x-tenant"] == "acme"


async def test_a_receiver_that_comes_back_gets_what_it_missed_once_and_in_order(
    port: int,
) -> None:
    first, second = Receiver(), Receiver()
    server = listen(first, port)
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    recorder.start("before").end()
    await eventually(lambda: len(first.spans()) == 1)
    server.stop(0).wait()
    for number in range(3):
        recorder.start(f"meanwhile {number}").end()
    await eventually(lambda: recorder.waiting_count == 0)  # the exporter has them
    server = listen(second, port)
    await eventually(lambda: len(second.spans()) == 3)
    await exporter.stop()
    server.stop(0).wait()
    assert [span.name for span in second.spans()] == [f"meanwhile {n}" for n in range(3)]
    assert recorder.dropped_count == 0


async def test_a_refused_batch_is_sent_again_before_the_next(port: int) -> None:
    receiver = Receiver(refuse_count=2)
    server = listen(receiver, port)
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    recorder.start("first").end()
    await eventually(lambda: receiver.refused_count >= 1)
    recorder.start("second").end()
    await eventually(lambda: len(receiver.spans()) == 2)
    await exporter.stop()
    server.stop(0).wait()
    assert [span.name for span in receiver.spans()] == ["first", "second"]


async def test_a_receiver_that_never_comes_does_not_hold_the_stop(port: int) -> None:
    recorder = SpanRecorder()
    exporter = SpanExporter(recorder, endpoint(port), RESOURCE)
    exporter.start()
    recorder.start("lost").end()
    await exporter.stop(timeout_s=0.3)
    await eventually(lambda: recorder.dropped_count == 1)
