"""What is known of a loaded model, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Capability(StrEnum):
    """What an engine can do with a model."""

    CHAT = "chat"
    JSON_SCHEMA = "json_schema"
    LOGPROBS = "logprobs"


@dataclass(frozen=True, slots=True)
class TaskQuality:
    """How good a model is at a task; an empty `task` speaks of all tasks together."""

    task: str
    quality_ratio: float
    sample_count: int


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One loaded model. `bos_ids` start every sequence; any of `eos_ids` ends an answer.

    `digest` is the sha256 of the artefact in hex. `adapters` are the LoRA adapters that requests may name.
    `bytes_per_token` is the mean length of a token's text, 0 when nobody measured it.
    """

    name: str
    digest: str
    format: str
    quantization: str
    parameter_count: int
    context_length: int
    vocab_size: int
    bos_ids: tuple[int, ...]
    eos_ids: frozenset[int]
    capabilities: frozenset[Capability]
    adapters: frozenset[str] = frozenset()
    qualities: tuple[TaskQuality, ...] = ()
    bytes_per_token: float = 0.0
