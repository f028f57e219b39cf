"""Settings of the edge service."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.inference.settings import EngineSettings
from farthing.kit.settings import setting


@dataclass(frozen=True, slots=True)
class EdgeSettings(EngineSettings):
    """What a process begins with, and how it loads every model."""

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
        0,
        env="FARTHING_EDGE_THREADS",
        doc="Most threads of llama.cpp; 0 for one per usable core. Small steps take fewer where that is sooner.",
    )
    slot_count: int = setting(
        4,
        env="FARTHING_EDGE_SLOTS",
        doc="Requests computed together, 1 to 255; each has room for a whole context.",
    )
    step_token_capacity: int = setting(
        256,
        env="FARTHING_EDGE_STEP_TOKENS",
        doc="Most tokens computed in one step, those of prompts and of answers together.",
        unit="tokens",
    )
    kv_type: str = setting(
        "f16",
        env="FARTHING_EDGE_KV_TYPE",
        doc="How keys and values are kept: f16, or q8_0 for about half the memory and slower steps.",
    )
    flash_attention: str = setting(
        "auto",
        env="FARTHING_EDGE_FLASH_ATTENTION",
        doc="llama.cpp's fused attention: on, off, or auto for what measured faster on this kind of processor.",
    )
    shared_kv: bool = setting(
        False,
        env="FARTHING_EDGE_SHARED_KV",
        doc="All slots share one pool of tokens instead of having room for a whole context each.",
    )
    pool_token_capacity: int = setting(
        0,
        env="FARTHING_EDGE_POOL_TOKENS",
        doc="Size of the shared pool; 0 for slots × context.",
        unit="tokens",
    )
    adapters: tuple[str, ...] = setting(
        (),
        env="FARTHING_EDGE_ADAPTERS",
        doc="LoRA adapters in GGUF for the model above and what takes its place, each as name=file or name=file@scale.",
    )
    memory_limit_bytes: int = setting(
        0,
        env="FARTHING_EDGE_MEMORY_LIMIT_BYTES",
        doc="Refuse to load what needs more by estimate, and end an engine that takes 512 MiB more; 0 for no limit.",
        unit="bytes",
    )
    embedding_context_length: int = setting(
        0,
        env="FARTHING_EDGE_EMBEDDINGS_CONTEXT",
        doc="Longest text that embeddings are made of; takes 8 bytes × vocabulary for each token. 0 makes none.",
        unit="tokens",
    )
    selftest_timeout_ms: int = setting(
        120_000,
        env="FARTHING_EDGE_SELFTEST_TIMEOUT_MS",
        doc="Longest start-up test of model and build in a process of its own.",
        unit="ms",
    )
