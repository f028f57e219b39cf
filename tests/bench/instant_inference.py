"""An inference service that answers at once, so that a benchmark sees the router and not the model."""

from __future__ import annotations

import os
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from tests.support.scripted_inference import Script, ScriptedInference

from farthing.api.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from farthing.kit.rpc import context as call_context
from farthing.kit.rpc.context import CallContext
from farthing.kit.telemetry.spans import NullRecorder


class InstantInference(ScriptedInference):
    """On a server without the house rules, so that what is measured beside it is not diluted."""

    async def Relay(self, requests: object, context: Any) -> None:  # type: ignore[override]
        recorder = NullRecorder()
        span = recorder.start("Relay")
        call_context.enter(CallContext("Relay", span.context, span, None, None, recorder))
        await super().Relay(requests, context)


async def serve() -> None:
    count = int(os.environ.get("BENCH_TOKENS", "100"))
    server = grpc.aio.server()
    servicer = InstantInference("instant", Script(tokens=("token ",) * count, us_per_token=100))
    add_InferenceServiceServicer_to_server(servicer, server)
    health = HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"{os.environ['FARTHING_HOST']}:{os.environ['FARTHING_PORT']}")
    if path := os.environ.get("FARTHING_UNIX_SOCKET"):
        server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
