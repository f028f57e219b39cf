"""A GGUF file with a header worth checking and weights that mean nothing."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    name: str = "Small",
    tokens: tuple[str, ...] = ("a", "b", "<|end|>"),
    file_type: int | None = 7,
    split_count: int = 0,
    seed: int = 1,
) -> Path:
    """Writes the file and returns its path. Same arguments, same bytes."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_custom_alignment(32)
    writer.add_context_length(512)
    if file_type is not None:
        writer.add_file_type(file_type)
    if split_count:
        writer.add_uint16("split.count", split_count)
    if tokens:
        writer.add_token_list(list(tokens))
        writer.add_token_scores([0.0] * len(tokens))
    weights = draw.standard_normal((64, 32)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", gguf.quantize(weights, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
