"""Starts the gateway."""

from __future__ import annotations

import farthing.kit.rpc.experiments  # noqa: F401  before grpc

# isort: split
from farthing.gateway.server import serve
from farthing.gateway.settings import GatewaySettings
from farthing.kit.process import run_service

if __name__ == "__main__":
    run_service("gateway", GatewaySettings, serve)
