"""Takes traces over the standard OTLP services, gRPC and HTTP."""

from __future__ import annotations
