"""Weights to an ONNX graph with a key-value cache, in the layout and naming of Optimum.

The graph is built node by node rather than traced: it is small, the same on every machine, and
its dimensions carry names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recipe import tokenizer
from recipe.chat import END_ID
from recipe.configs import Model, Shape
from recipe.rotary import cosine_and_sine_tables

OPSET = 18
IR_VERSION = 9
HIDDEN_SCORE = -1e9  # finite, so that a row that may see nothing stays a number


class _Graph:
    """Nodes and constants gathered in order; `node` returns the name of what it computes."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.constants.setdefault(
            name, numpy_helper.from_array(np.asarray(values, dtype), name)
        )
        return name

    def integers(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), values, np.int64)

    def nodes_out(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=outputs[0] + ".node", **attributes)
        )

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes_out(operator, inputs, [output], **attributes)
        return output


class _LlamaGraph:
    """Writes the Llama architecture into a _Graph."""

    def __init__(self, shape: Shape, weights: Mapping[str, Any]) -> None:
        self.shape, self.graph = shape, _Graph()
        self.weights = {name: value.astype(np.float32) for name, value in weights.items()}

    def norm(self, x: str, name: str) -> str:
        graph = self.graph
        square = graph.node("Pow", [x, graph.constant("two", 2.0)], f"{name}.square")
        mean = graph.node(
            "ReduceMean", [square, graph.integers(-1)], f"{name}.mean", keepdims=1
        )
        eps = graph.constant("rms_norm_eps", self.shape.rms_norm_eps)
        root = graph.node(
            "Sqrt", [graph.node("Add", [mean, eps], f"{name}.shifted")], f"{name}.root"
        )
        scaled = graph.node("Div", [x, root], f"{name}.scaled")
        weight = graph.constant(f"{name}.weight", self.weights[f"{name}.weight"])
        return graph.node("Mul", [weight, scaled], f"{name}.out")

    def linear(self, x: str, output: str, *names: str) -> str:
        """x times the matrices `names` side by side."""
        rows = np.concatenate([self.weights[f"{name}.weight"] for name in names])
        matrix = self.graph.constant(f"{output}.weight", np.ascontiguousarray(rows.T))
        return self.graph.node("MatMul", [x, matrix], output)

    def positions_and_mask(self) -> tuple[str, str, str]:
        """Cosines and sines [B,1,S,D] of the new tokens, and scores to add [B,1,S,T]."""
        graph = self.graph
        tables = cosine_and_sine_tables(self.shape)
        turned = []
        for kind, table in zip(("cosine", "sine"), tables, strict=True):
            rows = graph.node(
                "Gather", [graph.constant(kind, table), "position_ids"], f"{kind}s"
            )
            turned.append(graph.node("Unsqueeze", [rows, graph.integers(1)], f"{kind}s.heads"))
        new = graph.node("Shape", ["input_ids"], "new_count", start=1, end=2)
        total = graph.node("Shape", ["attention_mask"], "total_count", start=1, end=2)
        axis = graph.integers(0)
        new_scalar = graph.node("Squeeze", [new, axis], "new_count.scalar")
        total_scalar = graph.node("Squeeze", [total, axis], "total_count.scalar")
        past = graph.node("Sub", [total_scalar, new_scalar], "past_count.scalar")
        zero, one = (graph.constant(f"int_{value}", value, np.int64) for value in (0, 1))
        slots = graph.node("Range", [zero, total_scalar, one], "slots")
        new_slots = graph.node("Range", [past, total_scalar, one], "new_slots")
        column = graph.node("Unsqueeze", [new_slots, graph.integers(1)], "new_slots.column")
        causal = graph.node("LessOrEqual", [slots, column], "causal")
        used = graph.node("Cast", ["attention_mask"], "used", to=TensorProto.BOOL)
        used = graph.node("Unsqueeze", [used, graph.integers(1, 2)], "used.heads")
        visible = graph.node("And", [causal, used], "visible")
        shown, hidden = graph.constant("shown", 0.0), graph.constant("hidden", HIDDEN_SCORE)
        return turned[0], turned[1], graph.node("Where", [visible, shown, hidden], "mask")

    def rotate(self, x: str, cosine: str, sine: str, name: str) -> str:
        graph, half = self.graph, self.shape.head_dim // 2
        low, high = f"{name}.low", f"{name}.high"
        graph.nodes_out("Split", [x, graph.integers(half, half)], [low, high], axis=-1)
        negated = graph.node("Neg", [high], f"{name}.negated")
        turned = graph.node("Concat", [negated, low], f"{name}.turned", axis=-1)
        kept = graph.node("Mul", [x, cosine], f"{name}.kept")
        moved = graph.node("Mul", [turned, sine], f"{name}.moved")
        return graph.node("Add", [kept, moved], f"{name}.rotated")

    def attention(self, x: str, index: int, cosine: str, sine: str, mask: str) -> str:
        graph, shape, layer = self.graph, self.shape, f"model.layers.{index}.self_attn"
        heads, kv_heads, size = shape.head_count, shape.kv_head_count, shape.head_dim
        joined = self.linear(
            x, f"{layer}.qkv", f"{layer}.q_proj", f"{layer}.k_proj", f"{layer}.v_proj"
        )
        apart = graph.node(
            "Reshape",
            [joined, graph.integers(0, 0, heads + 2 * kv_heads, size)],
            f"{layer}.apart",
        )
        by_head = graph.node("Transpose", [apart], f"{layer}.by_head", perm=[0, 2, 1, 3])
        parts = [f"{layer}.qk", f"{layer}.v"]
        sizes = graph.integers(heads + kv_heads, kv_heads)
        graph.nodes_out("Split", [by_head, sizes], parts, axis=1)
        turned = self.rotate(parts[0], cosine, sine, f"{layer}.qk")
        query, key = f"{layer}.q", f"{layer}.k"
        graph.nodes_out(
            "Split", [turned, graph.integers(heads, kv_heads)], [query, key], axis=1
        )
        present = {}
        for kind, new in (("key", key), ("value", parts[1])):
            past, present[kind] = f"past_key_values.{index}.{kind}", f"present.{index}.{kind}"
            graph.node("Concat", [past, new], present[kind], axis=2)
        # Queries that share a key head stand in one matrix: no copies of keys and values.
        grouped = graph.node(
            "Reshape", [query, graph.integers(0, kv_heads, -1, size)], f"{layer}.q.grouped"
        )
        scale = graph.constant("score_scale", size**-0.5)
        scaled = graph.node("Mul", [grouped, scale], f"{layer}.q.scaled")
        across = graph.node(
            "Transpose", [present["key"]], f"{layer}.k.across", perm=[0, 1, 3, 2]
        )
        scores = graph.node("MatMul", [scaled, across], f"{layer}.scores.grouped")
        scores = graph.node(
            "Reshape", [scores, graph.integers(0, heads, -1, 0)], f"{layer}.scores"
        )
        masked = graph.node("Add", [scores, mask], f"{layer}.masked")
        shares = graph.node("Softmax", [masked], f"{layer}.shares", axis=-1)
        shares = graph.node(
            "Reshape", [shares, graph.integers(0, kv_heads, -1, 0)], f"{layer}.shares.grouped"
        )
        mixed = graph.node("MatMul", [shares, present["value"]], f"{layer}.mixed.grouped")
        mixed = graph.node(
            "Reshape", [mixed, graph.integers(0, heads, -1, size)], f"{layer}.mixed"
        )
        merged = graph.node("Transpose", [mixed], f"{layer}.merged", perm=[0, 2, 1, 3])
        flat = graph.node(
            "Reshape", [merged, graph.integers(0, 0, heads * size)], f"{layer}.flat"
        )
        return self.linear(flat, f"{layer}.out", f"{layer}.o_proj")

    def feed_forward(self, x: str, index: int) -> str:
        graph, layer = self.graph, f"model.layers.{index}.mlp"
        size = self.shape.intermediate_size
        joined = self.linear(x, f"{layer}.gate_up", f"{layer}.gate_proj", f"{layer}.up_proj")
        gate, up = f"{layer}.gate", f"{layer}.up"
        graph.nodes_out("Split", [joined, graph.integers(size, size)], [gate, up], axis=-1)
        opened = graph.node("Sigmoid", [gate], f"{layer}.opened")
        gated = graph.node("Mul", [gate, opened], f"{layer}.gated")
        passed = graph.node("Mul", [gated, up], f"{layer}.passed")
        return self.linear(passed, f"{layer}.out", f"{layer}.down_proj")

    def build(self) -> _Graph:
        graph = self.graph
        cosine, sine, mask = self.positions_and_mask()
        table = graph.constant("embed_tokens", self.weights["model.embed_tokens.weight"])
        x = graph.node("Gather", [table, "input_ids"], "embedded")
        for index in range(self.shape.layer_count):
            layer = f"model.layers.{index}"
            mixed = self.attention(
                self.norm(x, f"{layer}.input_layernorm"), index, cosine, sine, mask
            )
            x = graph.node("Add", [x, mixed], f"{layer}.after_attention")
            fed = self.feed_forward(self.norm(x, f"{layer}.post_attention_layernorm"), index)
            x = graph.node("Add", [x, fed], f"{layer}.after_mlp")
        matrix = graph.constant(
            "lm_head", np.ascontiguousarray(self.weights["lm_head.weight"].T)
        )
        graph.node("MatMul", [self.norm(x, "model.norm"), matrix], "logits")
        return graph


def build_graph(model: Model, weights: Mapping[str, Any]) -> onnx.ModelProto:
    """The model as an ONNX graph in float32."""
    shape = model.shape
    built = _LlamaGraph(shape, weights).build()
    cache = [
        f"{index}.{kind}" for index in range(shape.layer_count) for kind in ("key", "value")
    ]

    def tokens(name: str, length: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", length])

    def cached(prefix: str, length: str) -> list[Any]:
        dims = ["batch_size", shape.kv_head_count, length, shape.head_dim]
        return [
            helper.make_tensor_value_info(f"{prefix}.{name}", TensorProto.FLOAT, dims)
            for name in cache
        ]

    total = "past_sequence_length + sequence_length"
    logits_dims = ["batch_size", "sequence_length", shape.vocabulary_size]
    graph = helper.make_graph(
        built.nodes,
        model.name,
        inputs=[
            tokens("input_ids", "sequence_length"),
            tokens("attention_mask", total),
            tokens("position_ids", "sequence_length"),
            *cached("past_key_values", "past_sequence_length"),
        ],
        outputs=[
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits_dims),
            *cached("present", total),
        ],
        initializer=list(built.constants.values()),
    )
    document = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="farthing"
    )
    document.ir_version = IR_VERSION
    onnx.checker.check_model(document, full_check=True)
    return document


def model_config(shape: Shape) -> dict[str, Any]:
    """What config.json says, in the words of Hugging Face's LlamaConfig."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.context_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.head_count,
        "num_hidden_layers": shape.layer_count,
        "num_key_value_heads": shape.kv_head_count,
        "pad_token_id": END_ID,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": shape.vocabulary_size,
    }


def write(model: Model, weights: Mapping[str, Any], tokenizer_path: Path, folder: Path) -> None:
    """Write the graph and the files that Optimum puts beside it into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(build_graph(model, weights), str(folder / "model.onnx"))
    shutil.copyfile(tokenizer_path, folder / "tokenizer.json")
    generation = {
        "do_sample": False,
        "eos_token_id": END_ID,
        "max_length": model.shape.context_length,
        "pad_token_id": END_ID,
    }
    for name, document in (
        ("config.json", model_config(model.shape)),
        ("tokenizer_config.json", tokenizer.tokenizer_config()),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
