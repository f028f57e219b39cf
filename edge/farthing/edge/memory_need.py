"""What a model will take in memory, by its file's header, before anything is loaded."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from dataclasses import asdict, dataclass

from farthing.edge.plan import KvType, LoadPlan
from farthing.edge.shape import shape_context
from farthing.inference.store.gguf import GgufHeader, read_header
from farthing.kit.errors import FailedPrecondition

# ggml keeps 32 values of Q8_0 in 32 bytes and a scale of 2.
_BYTES_PER_32_VALUES: dict[KvType, int] = {"f16": 64, "q8_0": 34}
_ATTENTION_NAME = re.compile(r"blk\.(\d+)\.attn_(k|v|qkv|output|kv_a_mqa)\.weight")
# Rows of the widest layer alive at once, 4 bytes a value: what llama.cpp reserves, rounded up.
_LIVE_ROW_COUNT = 4


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """An estimate in bytes. `step_bytes` is for the values between the layers and the logits of one step."""

    weights_bytes: int
    adapter_bytes: int
    kv_bytes: int
    step_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.adapter_bytes + self.kv_bytes + self.step_bytes

    def as_log_fields(self) -> dict[str, int]:
        """Each part and the total, by name."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def estimate_memory(
    header: GgufHeader, plan: LoadPlan, machine: str, *, adapter_bytes: int = 0
) -> MemoryNeed:
    """Weights and adapters as their files have them; keys and values of every token that fits."""
    shape = shape_context(plan, _integer(header, "context_length"), machine)
    widths = [
        one.shape[1] for one in header.tensors if one.name[:4] == "blk." and one.shape[1:]
    ]
    row_values = _LIVE_ROW_COUNT * max(widths, default=0) + shape.reach_cell_count
    if shape.flash_attention == "off":  # every head's view of every token is written out
        row_values += _integer(header, "attention.head_count") * shape.reach_cell_count
    logit_count = 2 * shape.slot_count * header.array_counts.get("tokenizer.ggml.tokens", 0)
    token_bytes = count_kv_values(header) * _BYTES_PER_32_VALUES[plan.kv_type] // 32
    return MemoryNeed(
        weights_bytes=sum(one.size_bytes for one in header.tensors),
        adapter_bytes=adapter_bytes,
        kv_bytes=shape.cell_count * token_bytes,
        step_bytes=4 * (shape.step_token_capacity * row_values + logit_count),
    )


def _integer(header: GgufHeader, key: str) -> int:
    """A number of the model's architecture, 0 when the header has none."""
    architecture = header.metadata.get("general.architecture", "")
    value = header.metadata.get(f"{architecture}.{key}", 0)
    return max(0, value) if isinstance(value, int) else 0


def count_kv_values(header: GgufHeader) -> int:
    """Numbers that a token adds to keys and values in all layers, by the shapes of the projections.

    Recurrent layers add none.
    """
    layers: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for tensor in header.tensors:
        if (match := _ATTENTION_NAME.fullmatch(tensor.name)) and len(tensor.shape) == 2:
            layers[match[1]][match[2]] = tensor.shape
    return sum(map(_count_layer, layers.values()))


def _count_layer(shapes: dict[str, tuple[int, ...]]) -> int:
    if "kv_a_mqa" in shapes:  # one compressed vector for all heads
        return shapes["kv_a_mqa"][1]
    if "qkv" in shapes and "output" in shapes:
        return max(0, shapes["qkv"][1] - shapes["output"][0])
    return sum(shapes[part][1] for part in ("k", "v") if part in shapes)


def check_memory(plan: LoadPlan) -> MemoryNeed:
    """The plan's need. Raises FailedPrecondition when it is over the plan's limit."""
    need = estimate_memory(
        read_header(plan.path),
        plan,
        platform.machine(),
        adapter_bytes=sum(one.path.stat().st_size for one in plan.adapters),
    )
    limit_bytes = plan.memory_limit_bytes
    if not limit_bytes or need.total_bytes <= limit_bytes:
        return need
    raise FailedPrecondition(
        f"{plan.name} needs about {need.total_bytes} bytes of memory, more than"
        f" FARTHING_EDGE_MEMORY_LIMIT_BYTES={limit_bytes}: {need.weights_bytes} for weights,"
        f" {need.adapter_bytes} for adapters, {need.kv_bytes} for keys and values,"
        f" {need.step_bytes} for a step. Set FARTHING_EDGE_SLOTS or FARTHING_EDGE_CONTEXT to"
        " less, FARTHING_EDGE_KV_TYPE to q8_0, or take a smaller model.",
        reason="MEMORY_LIMIT_EXCEEDED",
        metadata={
            "limit_bytes": str(limit_bytes),
            **{name: str(value) for name, value in need.as_log_fields().items()},
        },
    )
