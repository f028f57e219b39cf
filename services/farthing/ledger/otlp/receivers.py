"""The standard OTLP receivers: TraceService over gRPC, /v1/traces over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from farthing.kit.errors import FarthingError, InvalidArgument, Unavailable
from farthing.kit.rpc.channel import MAX_MESSAGE_BYTES
from farthing.kit.rpc.status import encode_error
from farthing.ledger.otlp.decode import DecodedSpans, decode_request
from farthing.ledger.otlp.intake import SpanIntake

_PROTOBUF, _JSON = "application/x-protobuf", "application/json"
# OTLP's JSON writes these bytes fields in hex, where protobuf's own JSON expects base64.
_HEX_FIELDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")


_SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name


class TraceServicer:
    """OTLP/gRPC. Answers when the spans are stored: what was not acknowledged is sent again."""

    def __init__(self, intake: SpanIntake) -> None:
        self._intake = intake

    async def Export(
        self, request: ExportTraceServiceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> ExportTraceServiceResponse:
        """Takes an export. Unavailable with RetryInfo when too many spans wait already."""
        decoded = decode_request(request)
        await self._intake.take(decoded)
        return _respond(decoded)


def add_trace_servicer(servicer: TraceServicer, server: Any) -> None:
    """Registers the servicer. The published stubs do it in a form older than our server takes."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server.add_registered_method_handlers(_SERVICE, {"Export": handler})


def make_http_receiver(intake: SpanIntake) -> web.Application:
    """OTLP/HTTP, protobuf and JSON, gzip allowed."""

    async def export(request: web.Request) -> web.Response:
        content_type = request.content_type
        if content_type not in (_PROTOBUF, _JSON):
            raise web.HTTPUnsupportedMediaType(text=f"send {_PROTOBUF} or {_JSON}\n")
        try:
            body = await request.read()  # unzipped by aiohttp, bounded by client_max_size
            decoded = decode_request(_parse(body, content_type))
            await intake.take(decoded)
        except FarthingError as error:
            return _refuse(error, content_type)
        return _encode(_respond(decoded), content_type)

    application = web.Application(client_max_size=MAX_MESSAGE_BYTES)
    application.router.add_post("/v1/traces", export)
    return application


def _parse(body: bytes, content_type: str) -> ExportTraceServiceRequest:
    try:
        if content_type == _PROTOBUF:
            return ExportTraceServiceRequest.FromString(body)
        document = json.loads(body)
        for resource in document.get("resourceSpans", ()):
            for scope in resource.get("scopeSpans", ()):
                for span in scope.get("spans", ()):
                    _fix_ids(span)
                    for link in span.get("links", ()):
                        _fix_ids(link)
        return json_format.ParseDict(
            document, ExportTraceServiceRequest(), ignore_unknown_fields=True
        )
    except (DecodeError, json_format.ParseError, ValueError, AttributeError, TypeError,
            RecursionError) as error:  # fmt: skip
        raise InvalidArgument(
            f"the body is not an OTLP trace export: {str(error)[:200]}", field="body"
        ) from None


def _fix_ids(item: dict[str, Any]) -> None:
    for name in _HEX_FIELDS:
        if name in item:
            item[name] = base64.b64encode(bytes.fromhex(item[name])).decode()


def _respond(decoded: DecodedSpans) -> ExportTraceServiceResponse:
    if not decoded.rejected_count:
        return ExportTraceServiceResponse()
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(
            rejected_spans=decoded.rejected_count, error_message=decoded.message
        )
    )


def _refuse(error: FarthingError, content_type: str) -> web.Response:
    status, headers = 400, {}
    if isinstance(error, Unavailable):
        status = 503
        headers["Retry-After"] = str(max(1, -(-error.retry_after_ms // 1000)))
    response = _encode(encode_error(error), content_type, status)
    response.headers.update(headers)
    return response


def _encode(message: Message, content_type: str, status: int = 200) -> web.Response:
    if content_type == _PROTOBUF:
        body = message.SerializeToString()
    else:
        body = json_format.MessageToJson(message, indent=None).encode()
    return web.Response(body=body, status=status, content_type=content_type)
