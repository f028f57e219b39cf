"""Weights and tokenizer to one GGUF file for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recipe.chat import CHAT_TEMPLATE, END_ID
from recipe.configs import Model

_BLOCK_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def tensor_name(name: str) -> str:
    """A Hugging Face parameter name as llama.cpp's tensor name."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, _, index, rest = name.split(".", 3)
    return f"blk.{index}.{_BLOCK_NAMES[rest.removesuffix('.weight')]}.weight"


def interleave_rotary_rows(weight: Any, head_count: int) -> Any:
    """Reorder rows from rotary halves to the rotary pairs of llama.cpp's `llama` architecture."""
    rows, columns = weight.shape
    half = rows // head_count // 2
    return weight.reshape(head_count, 2, half, columns).swapaxes(1, 2).reshape(rows, columns)


def _add_tokenizer(writer: Any, tokenizer_path: Path) -> None:
    import gguf

    document = json.loads(tokenizer_path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = document["model"]["vocab"]
    special = {token["content"] for token in document["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
            for token in tokens
        ]
    )
    writer.add_token_merges([" ".join(pair) for pair in document["model"]["merges"]])
    writer.add_bos_token_id(END_ID)
    writer.add_eos_token_id(END_ID)
    writer.add_pad_token_id(END_ID)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(model: Model, weights: Mapping[str, Any], tokenizer_path: Path, output: Path) -> None:
    """Write `weights` as a GGUF file of float16 matrices and float32 norms."""
    import gguf

    shape = model.shape
    output.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(output), "llama")
    writer.add_name(model.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.layer_count)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.head_count)
    writer.add_head_count_kv(shape.kv_head_count)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocabulary_size)
    _add_tokenizer(writer, tokenizer_path)
    for name, weight in weights.items():
        tensor = weight
        if name.endswith("q_proj.weight"):
            tensor = interleave_rotary_rows(weight, shape.head_count)
        elif name.endswith("k_proj.weight"):
            tensor = interleave_rotary_rows(weight, shape.kv_head_count)
        dtype = np.float32 if tensor.ndim == 1 else np.float16
        writer.add_tensor(tensor_name(name), np.ascontiguousarray(tensor, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
