"""Settings of the edge service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.store_settings import StoreSettings
from farthing.kit.settings import setting


@dataclass(frozen=True, slots=True)
class EdgeSettings(StoreSettings):
    """One edge process serves one model."""

    port: int = setting(50061, env="FARTHING_PORT", doc="gRPC port.")
    model: str = setting(
        "",
        env="FARTHING_EDGE_MODEL",
        doc="GGUF file, folder with one, or name in the model store.",
    )
    model_name: str = setting(
        "",
        env="FARTHING_EDGE_MODEL_NAME",
        doc="Name that requests use; empty for the model's own.",
    )
    context_length: int = setting(
        4_096,
        env="FARTHING_EDGE_CONTEXT",
        doc="Most tokens of prompt and answer together; cut to what the model was trained for.",
        unit="tokens",
    )
    thread_count: int = setting(
        0, env="FARTHING_EDGE_THREADS", doc="Threads of llama.cpp; 0 for one per usable core."
    )
    prefill_chunk_token_count: int = setting(
        64,
        env="FARTHING_EDGE_PREFILL_CHUNK",
        doc="Prompt tokens computed in one step, and the grain of prefix reuse.",
        unit="tokens",
    )
    queue_capacity: int = setting(
        64, env="FARTHING_EDGE_QUEUE", doc="Requests that may wait; more are refused."
    )
    queue_aging_ms: int = setting(
        5_000,
        env="FARTHING_EDGE_QUEUE_AGING_MS",
        doc="Waiting time that lifts a request by one priority class.",
        unit="ms",
    )
    selftest_timeout_ms: int = setting(
        120_000,
        env="FARTHING_EDGE_SELFTEST_TIMEOUT_MS",
        doc="Longest start-up test of model and build in a process of its own.",
        unit="ms",
    )
