"""Settings of the cloud service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.settings import EngineSettings
from farthing.kit.settings import setting


@dataclass(frozen=True, slots=True)
class CloudSettings(EngineSettings):
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
    step_token_capacity: int = setting(
        0,
        env="FARTHING_CLOUD_STEP_TOKENS",
        doc="Most tokens computed in one step; 0 for 128 on a CPU, 512 on CUDA, and one for each slot.",
        unit="tokens",
    )
    slot_count: int = setting(
        0,
        env="FARTHING_CLOUD_SLOTS",
        doc="Requests computed together; 0 for 16 on a CPU, 64 on CUDA, or what fits into memory.",
    )
    memory_limit_bytes: int = setting(
        0,
        env="FARTHING_CLOUD_MEMORY_LIMIT_BYTES",
        doc="Most memory for weights and slots; what does not fit is refused at the start, and on a CPU an engine that "
        "takes 1 GiB more is ended. 0 for no limit.",
        unit="bytes",
    )
    kv_type: str = setting(
        "auto",
        env="FARTHING_CLOUD_KV_TYPE",
        doc="Precision of keys and values: auto for the model's own on a CPU and fp16 on CUDA, or fp16, "
        "which takes half the memory and is slower on a CPU.",
    )
    cuda_graphs: bool = setting(
        False,
        env="FARTHING_CLOUD_CUDA_GRAPHS",
        doc="Record steps of single tokens as CUDA graphs, one for each number of rows.",
    )
    selftest_timeout_ms: int = setting(
        300_000,
        env="FARTHING_CLOUD_SELFTEST_TIMEOUT_MS",
        doc="Longest start-up test of model and device in a process of its own.",
        unit="ms",
    )
