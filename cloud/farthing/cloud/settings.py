"""Settings of the cloud service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.store_settings import StoreSettings
from farthing.kit.settings import setting


@dataclass(frozen=True, slots=True)
class CloudSettings(StoreSettings):
    """One cloud process serves one model."""

    port: int = setting(50062, env="FARTHING_PORT", doc="gRPC port.")
    model: str = setting(
        "",
        env="FARTHING_CLOUD_MODEL",
        doc="ONNX folder in Optimum's layout, its graph, or name in the model store.",
    )
    model_name: str = setting(
        "",
        env="FARTHING_CLOUD_MODEL_NAME",
        doc="Name that requests use; empty for the model's own.",
    )
    device: str = setting(
        "auto",
        env="FARTHING_CLOUD_DEVICE",
        doc="cuda, cpu, or auto for CUDA where it works and the CPU elsewhere.",
    )
    require_gpu: bool = setting(
        False,
        env="FARTHING_CLOUD_REQUIRE_GPU",
        doc="Refuse to start where CUDA does not work.",
    )
    context_length: int = setting(
        0,
        env="FARTHING_CLOUD_CONTEXT",
        doc="Most tokens of prompt and answer together; 0 for what the model was trained for.",
        unit="tokens",
    )
    thread_count: int = setting(
        0,
        env="FARTHING_CLOUD_THREADS",
        doc="Threads of ONNX Runtime on the CPU; 0 for one per usable core.",
    )
    prefill_chunk_token_count: int = setting(
        0,
        env="FARTHING_CLOUD_PREFILL_CHUNK",
        doc="Prompt tokens computed in one step, and the grain of prefix reuse; 0 for 128 on a CPU, 512 on CUDA.",
        unit="tokens",
    )
    queue_capacity: int = setting(
        256, env="FARTHING_CLOUD_QUEUE", doc="Requests that may wait; more are refused."
    )
    queue_aging_ms: int = setting(
        5_000,
        env="FARTHING_CLOUD_QUEUE_AGING_MS",
        doc="Waiting time that lifts a request by one priority class.",
        unit="ms",
    )
    selftest_timeout_ms: int = setting(
        300_000,
        env="FARTHING_CLOUD_SELFTEST_TIMEOUT_MS",
        doc="Longest start-up test of model and device in a process of its own.",
        unit="ms",
    )
