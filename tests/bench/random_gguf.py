"""A Llama of random weights as large as wanted, for measuring: its answers mean nothing, its steps take real time.

The end token's logit is always 0, so that it is never the likeliest: greedy answers are as long as asked for.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp as llama
import numpy as np
from tests.support.tiny_gguf import byte_pieces

CONTEXT = 4_096
WEIGHTS = {
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
    "f16": None,  # as it is drawn
}


@dataclass(frozen=True, slots=True)
class Size:
    """Numbers of a model; heads are 64 wide, four of them share keys and values."""

    width: int = 1_024
    layer_count: int = 8
    inner_width: int = 2_816
    vocab_size: int = 8_192


def write_random_gguf(path: Path, size: Size, *, weights: str) -> Path:
    """Writes the model unless it is there; `weights` is one of WEIGHTS."""
    if path.exists():
        return path
    file_type = WEIGHTS[weights]
    whole = path if file_type is None else path.with_suffix(".whole")
    _write(whole, size)
    if file_type is not None:
        params = llama.llama_model_quantize_default_params()
        params.ftype = file_type
        silence = llama.llama_log_callback(lambda _level, _text, _data: None)
        llama.llama_log_set(silence, ctypes.c_void_p(0))
        code = llama.llama_model_quantize(
            str(whole).encode(), str(path).encode(), ctypes.byref(params)
        )
        assert code == 0, code
        whole.unlink()
    return path


def _write(path: Path, size: Size) -> None:
    draw = np.random.default_rng(3)
    width, head = size.width, 64
    head_count = width // head
    shared_width = head_count // 4 * head
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("random")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(size.layer_count)
    writer.add_feed_forward_length(size.inner_width)
    writer.add_head_count(head_count)
    writer.add_head_count_kv(head_count // 4)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    pieces = byte_pieces()  # so that any text is as many tokens as it has bytes
    others = (f"t{one}" for one in range(len(pieces) + 1, size.vocab_size))
    writer.add_token_list(["<|end|>", *pieces, *others])
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL, *[kinds.NORMAL] * (size.vocab_size - 1)])
    writer.add_token_merges(
        ["\u0100 \u0101"]
    )  # the loader refuses an empty list; no text has these two
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)

    def matrix(name: str, rows: int, columns: int, *, first: float = 1.0) -> None:
        values = draw.standard_normal((rows, columns), dtype=np.float32) * 0.04
        values[0] *= first
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))

    matrix("token_embd", size.vocab_size, width)
    matrix("output", size.vocab_size, width, first=0.0)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(size.layer_count):
        matrix(f"blk.{layer}.attn_q", width, width)
        matrix(f"blk.{layer}.attn_k", shared_width, width)
        matrix(f"blk.{layer}.attn_v", shared_width, width)
        matrix(f"blk.{layer}.attn_output", width, width)
        matrix(f"blk.{layer}.ffn_gate", size.inner_width, width)
        matrix(f"blk.{layer}.ffn_up", size.inner_width, width)
        matrix(f"blk.{layer}.ffn_down", width, size.inner_width)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
