"""The door for programs that speak OpenAI's HTTP API; behind it, the router's gRPC."""

from __future__ import annotations
