"""The tiny decoder with grouped attention as its own operator, as onnxruntime-genai's builder writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from tests.support.tiny_onnx import (
    Shape,
    TinyDecoder,
    _Graph,
    inverse_frequencies,
    save_model,
)

_WIDE = Shape(head=16)


def save_grouped_model(
    folder: Path,
    *,
    dtype: type[np.floating[Any]] = np.float32,
    packed: bool = True,
    shape: Shape = _WIDE,
) -> TinyDecoder:
    """Writes a whole folder; `packed`: queries, keys and values are one projection."""
    decoder = save_model(folder, dtype=dtype, shape=shape)
    onnx.save(build_grouped_graph(decoder, dtype, packed), str(folder / "model.onnx"))
    return decoder


def make_attention_inputs(g: _Graph, context: int, head: int) -> list[str]:
    """What the operator takes beside queries, keys and values: lengths, the longest, cosines and sines of positions."""
    one = g.integers([1])
    held = g.op("ReduceSum", "attention_mask", one, keepdims=0)
    lengths = g.cast(g.op("Sub", held, one), TensorProto.INT32)
    total = g.op("Gather", g.op("Shape", "attention_mask"), g.integers(1))
    total = g.cast(total, TensorProto.INT32)
    angle = np.arange(context)[:, None] * inverse_frequencies(head)
    return [lengths, total, *(g.number(f(angle)) for f in (np.cos, np.sin))]


def build_grouped_graph(
    decoder: TinyDecoder, dtype: type[np.floating[Any]], packed: bool
) -> onnx.ModelProto:
    """Lengths come from the sum of the mask; there is no input for positions."""
    g, shape = _Graph(dtype), decoder.shape
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    lengths, total, *tables = make_attention_inputs(g, shape.context, shape.head)
    x = g.op("Gather", g.number(decoder.weights["embed"]), "input_ids")
    values = helper.make_tensor_value_info
    inputs = [
        values("input_ids", TensorProto.INT64, ["batch", "count"]),
        values("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    outputs = [values("logits", kind, ["batch", "count", decoder.vocab_size])]
    for layer in range(shape.layers):
        w = {part: decoder.weights[f"{layer}.{part}"] for part in ("q", "k", "v", "o")}
        h = g.normalise(x)
        if packed:
            joined = np.concatenate([w["q"], w["k"], w["v"]], axis=1)
            projections = [g.op("MatMul", h, g.number(joined)), "", ""]
        else:
            projections = [g.op("MatMul", h, g.number(w[part])) for part in ("q", "k", "v")]
        cache = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        grown = [f"present.{layer}.{part}" for part in ("key", "value")]
        mixed = f"mixed.{layer}"
        g.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*projections, *cache, lengths, total, *tables],
                [mixed, *grown],
                domain="com.microsoft",
                num_heads=shape.heads,
                kv_num_heads=shape.heads,
                do_rotary=1,
            )
        )
        x = g.op("Add", x, g.op("MatMul", mixed, g.number(w["o"])))
        up = g.op("MatMul", g.normalise(x), g.number(decoder.weights[f"{layer}.up"]))
        up = g.op("Mul", up, g.op("Sigmoid", up))
        x = g.op("Add", x, g.op("MatMul", up, g.number(decoder.weights[f"{layer}.down"])))
        size: list[str | int | None] = ["batch", shape.heads, "past", shape.head]
        inputs += [values(name, kind, size) for name in cache]
        outputs += [values(name, kind, size) for name in grown]
    g.op("MatMul", g.normalise(x), g.number(decoder.weights["out"]), result="logits")
    graph = helper.make_graph(g.nodes, "tiny", inputs, outputs, g.constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
