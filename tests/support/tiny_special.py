"""Tiny models whose state cannot be cut back anywhere: with a sliding window, and recurrent."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tests.support.tiny_gguf import CONTEXT, HEAD, HEADS, INNER, WIDTH, add_vocabulary

WINDOW = 16
_STATE, _STEP_RANK, _KERNEL = 16, 4, 4


def write_window_gguf(path: Path, *, seed: int = 5) -> Path:
    """Four layers of OLMo 2, three of which see the last 16 tokens."""
    writer, draw = _begin(path, "olmo2", seed, layers=4)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_sliding_window(WINDOW)
    vocab_size = add_vocabulary(writer)
    _matrix(writer, draw, "token_embd.weight", vocab_size, WIDTH, 1.0)
    _matrix(writer, draw, "output.weight", vocab_size, WIDTH, 0.25)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(4):
        for part in ("q", "k", "v", "output"):
            _matrix(writer, draw, f"blk.{layer}.attn_{part}.weight", WIDTH, WIDTH, 0.3)
        _matrix(writer, draw, f"blk.{layer}.ffn_gate.weight", INNER, WIDTH, 0.2)
        _matrix(writer, draw, f"blk.{layer}.ffn_up.weight", INNER, WIDTH, 0.2)
        _matrix(writer, draw, f"blk.{layer}.ffn_down.weight", WIDTH, INNER, 0.2)
        for norm in ("attn_q", "attn_k", "post_attention", "post_ffw"):
            writer.add_tensor(f"blk.{layer}.{norm}_norm.weight", np.ones(WIDTH, np.float32))
    return _end(writer, path)


def write_recurrent_gguf(path: Path, *, seed: int = 5) -> Path:
    """Two layers of Mamba."""
    inner = 2 * WIDTH
    writer, draw = _begin(path, "mamba", seed, layers=2)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(_KERNEL)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_STEP_RANK)
    vocab_size = add_vocabulary(writer)
    _matrix(writer, draw, "token_embd.weight", vocab_size, WIDTH, 1.0)
    _matrix(writer, draw, "output.weight", vocab_size, WIDTH, 0.25)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(2):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(WIDTH, np.float32))
        _matrix(writer, draw, f"{block}.ssm_in.weight", 2 * inner, WIDTH, 0.3)
        _matrix(writer, draw, f"{block}.ssm_x.weight", _STEP_RANK + 2 * _STATE, inner, 0.2)
        _matrix(writer, draw, f"{block}.ssm_dt.weight", inner, _STEP_RANK, 0.3)
        _matrix(writer, draw, f"{block}.ssm_out.weight", WIDTH, inner, 0.3)
        for name, values in {
            "ssm_conv1d.weight": draw.standard_normal((inner, _KERNEL)) * 0.5,
            "ssm_conv1d.bias": np.zeros(inner),
            "ssm_dt.bias": np.zeros(inner),
            "ssm_a": -np.tile(np.arange(1.0, _STATE + 1), (inner, 1)),
            "ssm_d": np.ones(inner),
        }.items():
            writer.add_tensor(f"{block}.{name}", values.astype(np.float32))
    return _end(writer, path)


def _begin(
    path: Path, architecture: str, seed: int, *, layers: int
) -> tuple[gguf.GGUFWriter, np.random.Generator]:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer, np.random.default_rng(seed)


def _matrix(
    writer: gguf.GGUFWriter,
    draw: np.random.Generator,
    name: str,
    rows: int,
    columns: int,
    scale: float,
) -> None:
    values = draw.standard_normal((rows, columns)) * scale
    writer.add_tensor(name, values.astype(np.float16))


def _end(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
