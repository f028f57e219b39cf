"""A tiny Llama made on the spot, random weights and a byte-level vocabulary as a GGUF file, and a LoRA adapter."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
Floats = NDArray[np.float32]
LAYERS, HEADS, HEAD, WIDTH, INNER = 2, 2, 32, 64, 128
CONTEXT = 512


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 7,
    quantized: bool = True,
    precise: bool = False,
    added: Mapping[str, Floats] | None = None,
    width: int = WIDTH,
) -> Path:
    """Writes the model as Q8_0, F16 or, `precise`, F32, with `added` on the matrices it names.

    `width` is a multiple of 32. Same arguments, same file."""
    quantized = quantized and not precise
    whole = path.with_suffix(".f16.gguf") if quantized else path
    _write_whole(whole, seed, np.float32 if precise else np.float16, added or {}, width)
    if quantized:
        _quantize(whole, path)
        whole.unlink()
    return path


def write_tiny_lora(
    path: Path, *, seed: int = 11, alpha: float = 8.0, architecture: str = "llama"
) -> dict[str, Floats]:
    """Writes an adapter for some matrices of every tiny model; returns what it adds to each at scale 1."""
    rank = 4
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    added = {}
    for layer in range(LAYERS):
        for part, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_v", WIDTH, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):
            name = f"blk.{layer}.{part}.weight"
            down = (draw.standard_normal((rank, columns)) * 0.2).astype(np.float32)
            up = (draw.standard_normal((rows, rank)) * 0.2).astype(np.float32)
            writer.add_tensor(f"{name}.lora_a", down)
            writer.add_tensor(f"{name}.lora_b", up)
            added[name] = (up @ down) * np.float32(alpha / rank)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return added


def byte_pieces() -> list[str]:
    """The 256 bytes in the spelling of byte-level vocabularies, in order of byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in spelled)
    spelled |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [spelled[byte] for byte in range(256)]


def add_vocabulary(writer: gguf.GGUFWriter) -> int:
    """Byte-level tokens, control tokens and a chat template; returns how many tokens there are."""
    bytes_ = byte_pieces()
    # A vocabulary without merges is refused; these two make words that cross token borders.
    merges = [("t", "h"), ("th", "e")]
    vocab = [*SPECIALS, *bytes_, *("".join(pair) for pair in merges)]
    control = [gguf.TokenType.CONTROL] * len(SPECIALS)
    types = control + [gguf.TokenType.NORMAL] * (len(vocab) - len(SPECIALS))
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocab)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(vocab)


def _write_whole(
    path: Path,
    seed: int,
    number: type[np.float16 | np.float32],
    added: Mapping[str, Floats],
    width: int,
) -> None:
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    kinds = gguf.LlamaFileType
    writer.add_file_type(kinds.ALL_F32 if number is np.float32 else kinds.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    inner, heads = 2 * width, width // HEAD
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    vocab_size = add_vocabulary(writer)

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        values = draw.standard_normal((rows, columns)) * scale
        if name in added:
            values = values + added[name]
        writer.add_tensor(name, values.astype(number))

    matrix("token_embd.weight", vocab_size, width, 1.0)
    matrix("output.weight", vocab_size, width, 0.25)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(LAYERS):
        for part in ("q", "k", "v", "output"):
            matrix(f"blk.{layer}.attn_{part}.weight", width, width, 0.3)
        matrix(f"blk.{layer}.ffn_gate.weight", inner, width, 0.2)
        matrix(f"blk.{layer}.ffn_up.weight", inner, width, 0.2)
        matrix(f"blk.{layer}.ffn_down.weight", width, inner, 0.2)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantize(source: Path, target: Path) -> None:
    import llama_cpp as llama

    params = llama.llama_model_quantize_default_params()
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_Q8_0
    params.nthread = 1
    code = llama.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    assert code == 0, code
