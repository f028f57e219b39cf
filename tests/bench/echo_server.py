"""The yardstick: a bare grpc.aio server that gives back what it gets, with health and nothing else."""

from __future__ import annotations

import os
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import (
    RouterServiceServicer,
    add_RouterServiceServicer_to_server,
)


class Echo(RouterServiceServicer):
    """Complete gives an empty answer; the other rpcs are not served."""

    async def Complete(
        self, request: router_pb2.CompleteRequest, context: Any
    ) -> router_pb2.CompleteResponse:
        return router_pb2.CompleteResponse(text=request.request.model)

    Generate = Explain = ListModels = ListInstances = None  # type: ignore[assignment]


async def serve() -> None:
    server = grpc.aio.server()
    add_RouterServiceServicer_to_server(Echo(), server)
    health = HealthServicer()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"{os.environ['FARTHING_HOST']}:{os.environ['FARTHING_PORT']}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve())
