"""What to load and how, as a value that also travels to the self-test's process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from farthing.inference.core.card import ModelCard

KvType = Literal["f16", "q8_0"]
KV_TYPES: tuple[KvType, ...] = get_args(KvType)
Choice = Literal["auto", "on", "off"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
MAX_SLOT_COUNT = 255  # llama.cpp has 256 sequences, one of which is ours


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: the name that requests use, its GGUF file, and how strongly it counts."""

    name: str
    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """A model file and its limits.

    `context_length` is what one slot holds, cut to what the model was trained for. With
    `shared_kv` the slots hold `pool_token_capacity` tokens together, 0 for slots × context.
    `memory_limit_bytes` 0 is no limit, `embedding_context_length` 0 makes no embeddings.
    """

    path: Path
    name: str
    digest: str
    card: ModelCard
    context_length: int
    thread_count: int
    slot_count: int = 1
    step_token_capacity: int = 256
    kv_type: KvType = "f16"
    shared_kv: bool = False
    pool_token_capacity: int = 0
    flash_attention: Choice = "auto"
    adapters: tuple[Adapter, ...] = ()
    memory_limit_bytes: int = 0
    embedding_context_length: int = 0

    def to_json(self) -> str:
        """As an argument for another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> LoadPlan:
        """Back from `to_json`."""
        values = json.loads(text)
        values["path"] = Path(values["path"])
        values["adapters"] = tuple(
            Adapter(one["name"], Path(one["path"]), one["scale"]) for one in values["adapters"]
        )
        values["card"] = ModelCard.from_dict(values["card"])
        return cls(**values)
