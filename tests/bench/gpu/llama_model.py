"""A model of Llama's architecture with random weights, for every engine that is compared: for speed and agreement.

Grouped queries, rotary positions, a gated layer, as ONNX in the form of onnxruntime-genai's builder with its weights
beside it, and the same weights as arrays for PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tests.support.tiny_gqa import make_attention_inputs
from tests.support.tiny_onnx import _Graph, save_tokenizer

Weights = NDArray[np.floating[Any]]
EPSILON = 1e-5
END_ID = 0


@dataclass(frozen=True, slots=True)
class LlamaSize:
    """`heads` query heads share `groups` heads of keys and values."""

    name: str
    layers: int
    heads: int
    groups: int
    head: int
    inner: int
    vocab: int
    context: int = 2_048

    @property
    def width(self) -> int:
        return self.heads * self.head

    @property
    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every weight by name; matrices as they multiply from the right, (in, out)."""
        width, shared = self.width, self.groups * self.head
        yield "embed", (self.vocab, width)
        for layer in range(self.layers):
            yield f"{layer}.norm", (width,)
            yield f"{layer}.q", (width, width)
            yield f"{layer}.k", (width, shared)
            yield f"{layer}.v", (width, shared)
            yield f"{layer}.o", (width, width)
            yield f"{layer}.inner_norm", (width,)
            yield f"{layer}.gate", (width, self.inner)
            yield f"{layer}.up", (width, self.inner)
            yield f"{layer}.down", (self.inner, width)
        yield "norm", (width,)
        yield "out", (width, self.vocab)

    @property
    def parameter_count(self) -> int:
        return sum(int(np.prod(shape)) for _, shape in self.shapes)


SIZES = {
    size.name: size
    for size in (
        LlamaSize("1b", 16, 32, 8, 64, 8_192, 32_000),
        LlamaSize("3b", 28, 24, 8, 128, 8_192, 32_000),
        LlamaSize("small", 4, 8, 4, 64, 1_024, 512, 512),
    )
}


def make_model(folder: Path, size: LlamaSize, dtype: type[np.floating[Any]]) -> Path:
    """The folder `size` and `dtype` name below `folder`, with the model in all its forms; made once."""
    place = folder / f"llama-{size.name}-{np.dtype(dtype).name}"
    if (place / "genai_config.json").exists():  # written last
        return place
    arrays = place / "arrays"
    arrays.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Weights] = {}
    for number, (name, shape) in enumerate(size.shapes):
        weights[name] = _draw(number, name, shape).astype(dtype)
        np.save(arrays / f"{name}.npy", weights[name])
    onnx.save_model(
        _build_graph(size, weights, dtype),
        str(place / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=1_024,
    )
    save_tokenizer(place)
    _write(place / "config.json", _describe(size))
    _write(place / "generation_config.json", {"eos_token_id": [END_ID]})
    _write(place / "genai_config.json", _describe_for_genai(size))
    return place


def _draw(number: int, name: str, shape: tuple[int, ...]) -> Weights:
    draw = np.random.default_rng(number)
    if len(shape) == 1:
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    gain = 1.0 if name == "embed" else 4.0 if name == "out" else 1.6
    columns = 1 if name == "embed" else shape[0]
    return draw.standard_normal(shape, np.float32) * np.float32(gain / np.sqrt(columns))


def _build_graph(
    size: LlamaSize, weights: dict[str, Weights], dtype: type[np.floating[Any]]
) -> onnx.ModelProto:
    g = _Graph(dtype)
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    lengths, total, *tables = make_attention_inputs(g, size.context, size.head)
    values = helper.make_tensor_value_info
    inputs = [
        values("input_ids", TensorProto.INT64, ["batch", "count"]),
        values("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    outputs = [values("logits", kind, ["batch", "count", size.vocab])]

    def normalise(x: str, name: str) -> str:
        return g.op(
            "SimplifiedLayerNormalization", x, g.number(weights[name]),
            axis=-1, epsilon=EPSILON, stash_type=1,
        )  # fmt: skip

    def multiply(x: str, *names: str) -> str:
        joined = np.concatenate([weights[name] for name in names], axis=1)
        return g.op("MatMul", x, g.number(joined))

    x = g.op("Gather", g.number(weights["embed"]), "input_ids")
    for layer in range(size.layers):
        h = normalise(x, f"{layer}.norm")
        packed = multiply(h, f"{layer}.q", f"{layer}.k", f"{layer}.v")
        cache = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        grown = [f"present.{layer}.{part}" for part in ("key", "value")]
        mixed = f"mixed.{layer}"
        g.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [packed, "", "", *cache, lengths, total, *tables],
                [mixed, *grown],
                domain="com.microsoft",
                num_heads=size.heads,
                kv_num_heads=size.groups,
                do_rotary=1,
            )
        )
        x = g.op("Add", x, multiply(mixed, f"{layer}.o"))
        h = normalise(x, f"{layer}.inner_norm")
        gate = multiply(h, f"{layer}.gate")
        gate = g.op("Mul", gate, g.op("Sigmoid", gate))
        inner = g.op("Mul", gate, multiply(h, f"{layer}.up"))
        x = g.op("Add", x, multiply(inner, f"{layer}.down"))
        held: list[str | int | None] = ["batch", size.groups, "past", size.head]
        inputs += [values(name, kind, held) for name in cache]
        outputs += [values(name, kind, held) for name in grown]
    g.op("MatMul", normalise(x, "norm"), g.number(weights["out"]), result="logits")
    graph = helper.make_graph(g.nodes, f"llama-{size.name}", inputs, outputs, g.constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _describe(size: LlamaSize) -> dict[str, Any]:
    """As transformers and Optimum write it."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size.vocab,
        "hidden_size": size.width, "intermediate_size": size.inner, "head_dim": size.head,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.groups, "max_position_embeddings": size.context,
        "rms_norm_eps": EPSILON, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": END_ID, "eos_token_id": END_ID,
        "pad_token_id": END_ID,
    }  # fmt: skip


def _describe_for_genai(size: LlamaSize) -> dict[str, Any]:
    return {
        "model": {
            "type": "llama", "context_length": size.context, "vocab_size": size.vocab,
            "bos_token_id": END_ID, "eos_token_id": END_ID, "pad_token_id": END_ID,
            "decoder": {
                "filename": "model.onnx", "head_size": size.head, "hidden_size": size.width,
                "num_attention_heads": size.heads, "num_key_value_heads": size.groups,
                "num_hidden_layers": size.layers, "session_options": {},
                "inputs": {
                    "input_ids": "input_ids", "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits", "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": size.context, "past_present_share_buffer": True},
    }  # fmt: skip


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
