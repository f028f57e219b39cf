"""The peer: onnxruntime-genai in a virtual environment of its own, which cannot be that of onnxruntime-gpu."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.peer_process import Asking, asked, make_environment
from tests.support.tiny_gqa import save_grouped_model
from tests.support.tiny_onnx import Shape

VERSION = "0.18.0"
# 101 million parameters and a small vocabulary.
SHAPE = Shape(layers=8, heads=16, head=64, inner=4_096, context=512)


def make_model(folder: Path) -> Path:
    """The model in the form of genai's own builder, for both: a grouped attention graph and genai's configuration."""
    place = folder / "bench-gqa-fp32"
    if (place / "genai_config.json").exists():
        return place
    decoder = save_grouped_model(place, shape=SHAPE)
    names = {
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    grown = {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    config = {
        "model": {
            "type": "llama", "context_length": SHAPE.context, "vocab_size": decoder.vocab_size,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
            "decoder": {
                "filename": "model.onnx", "head_size": SHAPE.head, "hidden_size": SHAPE.width,
                "num_attention_heads": SHAPE.heads, "num_key_value_heads": SHAPE.heads,
                "num_hidden_layers": SHAPE.layers, "session_options": {},
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **names},
                "outputs": {"logits": "logits", **grown},
            },
        },
        "search": {"max_length": SHAPE.context, "past_present_share_buffer": True},
    }  # fmt: skip
    (place / "genai_config.json").write_text(json.dumps(config))
    return place


@contextmanager
def running_worker(
    model: Path, thread_count: int, device: str = "cpu", python: str = ""
) -> Iterator[Asking]:
    """Asks a process of genai's; NoPeer when it cannot be had, and for what it cannot do."""
    package = "onnxruntime-genai-cuda" if device == "cuda" else "onnxruntime-genai"
    python = python or str(
        make_environment(
            f"{package.removeprefix('onnxruntime-')}-{VERSION}", [f"{package}=={VERSION}"]
        )
    )
    worker = Path(__file__).with_name("genai_worker.py")
    with asked([python, str(worker), str(model), str(thread_count), device]) as ask:
        yield ask
