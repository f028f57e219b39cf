"""A tiny Llama made on the spot: random weights and a byte-level vocabulary, as a GGUF file."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np

SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAYERS, HEAD, WIDTH = 2, 32, 64
CONTEXT = 512


def write_tiny_gguf(
    path: Path, *, seed: int = 7, quantized: bool = True, width: int = WIDTH
) -> Path:
    """Writes the model, as Q8_0 or F16; `width` is a multiple of 32. Same arguments, same file."""
    whole = path.with_suffix(".f16.gguf") if quantized else path
    _write_f16(whole, seed, width)
    if quantized:
        _quantize(whole, path)
        whole.unlink()
    return path


def byte_pieces() -> list[str]:
    """The 256 bytes in the spelling of byte-level vocabularies, in order of byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelled = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in spelled)
    spelled |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [spelled[byte] for byte in range(256)]


def _write_f16(path: Path, seed: int, width: int) -> None:
    bytes_ = byte_pieces()
    # A vocabulary without merges is refused; these two make words that cross token borders.
    merges = [("t", "h"), ("th", "e")]
    vocab = [*SPECIALS, *bytes_, *("".join(pair) for pair in merges)]
    control = [gguf.TokenType.CONTROL] * len(SPECIALS)
    types = control + [gguf.TokenType.NORMAL] * (len(vocab) - len(SPECIALS))
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(LAYERS)
    inner, heads = 2 * width, width // HEAD
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
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

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        values = (draw.standard_normal((rows, columns)) * scale).astype(np.float16)
        writer.add_tensor(name, values)

    matrix("token_embd.weight", len(vocab), width, 1.0)
    matrix("output.weight", len(vocab), width, 0.25)
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
