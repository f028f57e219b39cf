"""Decode with small quantized models in this process: a crash here is what a broken engine build looks like.

Set-up runs it as a child, because a fault inside the engine kills the process it happens in.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

# Before the library loads: its threads otherwise spin through their waits (see docs/reference).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import gguf
import llama_cpp
import numpy as np

WIDTH = 256  # wide enough for every tile size of the matrix kernels
HEAD_COUNT = 4
HIDDEN_WIDTH = 512
TOKENS = [f"t{number}" for number in range(64)]
PROMPT = [5, 9, 17, 33]


def write_model(path: Path, kind: gguf.GGMLQuantizationType) -> None:
    """Write a one-layer model with seeded random weights in the given quantized format."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN_WIDTH)
    writer.add_head_count(HEAD_COUNT)
    writer.add_head_count_kv(HEAD_COUNT)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEAD_COUNT)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * len(TOKENS))
    writer.add_token_merges(["t 0"])  # the loader refuses an empty list
    writer.add_eos_token_id(0)
    shapes = {
        "token_embd": (len(TOKENS), WIDTH),
        "output": (len(TOKENS), WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (HIDDEN_WIDTH, WIDTH),
        "blk.0.ffn_up": (HIDDEN_WIDTH, WIDTH),
        "blk.0.ffn_down": (WIDTH, HIDDEN_WIDTH),
    }
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, dtype=np.float32) * 0.05
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def decode_once(path: Path, tokens: list[int]) -> int:
    """Run one batch through the model and return its most likely next token."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, verbose=False)
    try:
        model.eval(tokens)
        logits = llama_cpp.llama_get_logits_ith(model.ctx, len(tokens) - 1)
        values = np.ctypeslib.as_array(logits, shape=(model.n_vocab(),))
        if not np.isfinite(values).all():
            sys.exit(f"{path.name}: the engine computed values that are not numbers")
        return int(values.argmax())
    finally:
        model.close()


def main() -> None:
    silence = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    kinds = gguf.GGMLQuantizationType
    with tempfile.TemporaryDirectory() as folder:
        for kind in (kinds.Q4_0, kinds.Q8_0):
            path = Path(folder) / f"{kind.name}.gguf"
            write_model(path, kind)
            decode_once(path, PROMPT)
            print(f"{kind.name}: decodes")
    for model in sys.argv[1:]:
        decode_once(Path(model), PROMPT)
        print(f"{Path(model).name}: decodes")


if __name__ == "__main__":
    main()
