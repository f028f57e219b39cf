"""A tiny decoder made on the spot: random weights, real attention with a cache, as ONNX and as numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]

SPECIALS = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAYERS, HEADS, HEAD, CONTEXT = 2, 2, 8, 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder. The default is as small as keeps every part in play."""

    layers: int = LAYERS
    heads: int = HEADS
    head: int = HEAD
    inner: int = 32
    context: int = CONTEXT
    window: int = 0  # every token sees this many at most; 0 for all
    score_cap: float = 0.0  # scores are bent to stay below it; 0 for none

    @property
    def width(self) -> int:
        return self.heads * self.head


@dataclass(frozen=True)
class TinyDecoder:
    """The weights by name. Same seed and shape, same weights."""

    weights: dict[str, Array]
    vocab_size: int
    shape: Shape = Shape()

    @classmethod
    def make(cls, vocab_size: int, seed: int = 7, shape: Shape = Shape()) -> TinyDecoder:
        draw = np.random.default_rng(seed)
        width, inner = shape.width, shape.inner

        def normal(rows: int, columns: int, gain: float) -> Array:
            scale = np.float32(gain / np.sqrt(rows))
            drawn: Array = draw.standard_normal((rows, columns), np.float32) * scale
            return drawn

        weights = {"embed": normal(vocab_size, width, np.sqrt(vocab_size))}
        for layer in range(shape.layers):
            for part in ("q", "k", "v", "o"):
                weights[f"{layer}.{part}"] = normal(width, width, 1.6)
            weights[f"{layer}.up"] = normal(width, inner, 1.6)
            weights[f"{layer}.down"] = normal(inner, width, 1.7)
        weights["out"] = normal(width, vocab_size, 2.8)
        return cls(weights, vocab_size, shape)

    def logits(self, tokens: list[int]) -> Array:
        """Logits after every token, computed at once and without a cache."""
        w, count, shape = self.weights, len(tokens), self.shape
        x = w["embed"][np.array(tokens)]
        angle = np.arange(count)[:, None] * inverse_frequencies(shape.head)
        cos, sin = (f(np.concatenate((angle, angle), -1)) for f in (np.cos, np.sin))
        future = np.triu(np.full((count, count), -1e9, np.float32), 1)
        if shape.window:
            future += np.tril(np.full((count, count), -1e9, np.float32), -shape.window)
        for layer in range(shape.layers):
            h = normalise(x)
            q, k, v = (
                (h @ w[f"{layer}.{part}"])
                .reshape(count, shape.heads, shape.head)
                .swapaxes(0, 1)
                for part in ("q", "k", "v")
            )
            q, k = q * cos + turn(q) * sin, k * cos + turn(k) * sin
            scores = q @ k.swapaxes(1, 2) * shape.head**-0.5
            if shape.score_cap:
                scores = np.tanh(scores / shape.score_cap) * shape.score_cap
            scores = scores + future
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            mixed = (weight / weight.sum(-1, keepdims=True)) @ v
            x = x + mixed.swapaxes(0, 1).reshape(count, shape.width) @ w[f"{layer}.o"]
            up = normalise(x) @ w[f"{layer}.up"]
            x = x + (up / (1 + np.exp(-up))) @ w[f"{layer}.down"]
        result: Array = (normalise(x) @ w["out"]).astype(np.float32)
        return result

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The likeliest continuation, without stopping at the end token."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[len(prompt) :]


def inverse_frequencies(head: int) -> Array:
    return (1.0 / 10000.0 ** (np.arange(0, head, 2) / head)).astype(np.float32)


def normalise(x: Array) -> Array:
    result: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
    return result


def turn(x: Array) -> Array:
    a, b = np.split(x, 2, -1)
    return np.concatenate((-b, a), -1)


class _Graph:
    """Collects nodes; every method returns the name of what it computes."""

    def __init__(self, dtype: type[np.floating]) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: type[np.generic]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def number(self, value: object) -> str:
        return self.constant(value, self.dtype)

    def integers(self, value: object) -> str:
        return self.constant(value, np.int64)

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        name = result or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def cast(self, x: str, kind: int) -> str:
        return self.op("Cast", x, to=kind)

    def normalise(self, x: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), axes=[-1])
        return self.op("Div", x, self.op("Sqrt", self.op("Add", mean, self.number(1e-5))))

    def turn(self, x: str, head: int) -> str:
        low = self.op("Slice", x, *map(self.integers, ([0], [head // 2], [-1])))
        high = self.op("Slice", x, *map(self.integers, ([head // 2], [head], [-1])))
        return self.op("Concat", self.op("Neg", high), low, axis=-1)


def build_graph(
    decoder: TinyDecoder, *, dtype: type[np.floating] = np.float32, position_ids: bool = True
) -> onnx.ModelProto:
    """The decoder in Optimum's naming, with a key/value cache."""
    g = _Graph(dtype)
    kind = TensorProto.FLOAT16 if dtype is np.float16 else TensorProto.FLOAT
    mask_shape, ids_shape = g.op("Shape", "attention_mask"), g.op("Shape", "input_ids")
    total = g.op("Gather", mask_shape, g.integers(1))
    count = g.op("Gather", ids_shape, g.integers(1))
    zero, one = g.integers(0), g.integers(1)
    keys = g.op("Range", zero, total, one)
    queries = g.op("Range", g.op("Sub", total, count), total, one)
    causal = g.op(
        "LessOrEqual",
        g.op("Unsqueeze", keys, g.integers([0])),
        g.op("Unsqueeze", queries, g.integers([1])),
    )
    present = g.op(
        "Greater", g.op("Unsqueeze", "attention_mask", g.integers([1, 2])), g.integers(0)
    )
    seen = g.op("And", present, causal)
    if decoder.shape.window:
        oldest = g.op(
            "Sub", g.op("Unsqueeze", queries, g.integers([1])), g.integers(decoder.shape.window)
        )
        seen = g.op(
            "And", seen, g.op("Greater", g.op("Unsqueeze", keys, g.integers([0])), oldest)
        )
    bias = g.op("Where", seen, g.number(0.0), g.number(-1e4))
    positions = "position_ids"
    if not position_ids:
        seen = g.op("Sub", g.op("CumSum", "attention_mask", one), one)
        start = g.op("Unsqueeze", g.op("Sub", total, count), g.integers([0]))
        end = g.op("Unsqueeze", total, g.integers([0]))
        positions = g.op("Slice", seen, start, end, g.integers([1]))
    place = g.cast(g.op("Unsqueeze", positions, g.integers([1, 3])), TensorProto.FLOAT)
    angle = g.op("Mul", place, g.constant(inverse_frequencies(decoder.shape.head), np.float32))
    angle = g.op("Concat", angle, angle, axis=-1)
    cos, sin = g.cast(g.op("Cos", angle), kind), g.cast(g.op("Sin", angle), kind)
    x = g.op("Gather", g.number(decoder.weights["embed"]), "input_ids")
    for layer in range(decoder.shape.layers):
        x = _add_layer(g, decoder, layer, x, bias, cos, sin)
    g.op("MatMul", g.normalise(x), g.number(decoder.weights["out"]), result="logits")
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "count"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
    ]
    if position_ids:
        inputs.append(
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "count"])
        )
    outputs = [
        helper.make_tensor_value_info("logits", kind, ["batch", "count", decoder.vocab_size])
    ]
    for layer in range(decoder.shape.layers):
        for part in ("key", "value"):
            inputs.append(
                helper.make_tensor_value_info(
                    f"past_key_values.{layer}.{part}",
                    kind,
                    ["batch", decoder.shape.heads, "past", decoder.shape.head],
                )
            )
            outputs.append(
                helper.make_tensor_value_info(
                    f"present.{layer}.{part}",
                    kind,
                    ["batch", decoder.shape.heads, "total", decoder.shape.head],
                )
            )
    graph = helper.make_graph(g.nodes, "tiny", inputs, outputs, g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model


def _add_layer(
    g: _Graph, decoder: TinyDecoder, layer: int, x: str, bias: str, cos: str, sin: str
) -> str:
    heads, head, width = decoder.shape.heads, decoder.shape.head, decoder.shape.width
    h = g.normalise(x)

    def project(part: str) -> str:
        flat = g.op("MatMul", h, g.number(decoder.weights[f"{layer}.{part}"]))
        split = g.op("Reshape", flat, g.integers([0, 0, heads, head]))
        return g.op("Transpose", split, perm=[0, 2, 1, 3])

    def place(y: str) -> str:
        return g.op("Add", g.op("Mul", y, cos), g.op("Mul", g.turn(y, head), sin))

    q, k, v = place(project("q")), place(project("k")), project("v")
    keys = g.op(
        "Concat", f"past_key_values.{layer}.key", k, axis=2, result=f"present.{layer}.key"
    )
    values = g.op(
        "Concat", f"past_key_values.{layer}.value", v, axis=2, result=f"present.{layer}.value"
    )
    scores = g.op("MatMul", q, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = g.op("Mul", scores, g.number(head**-0.5))
    if cap := decoder.shape.score_cap:
        bent = g.op("Tanh", g.op("Div", scores, g.number(cap)))
        scores = g.op("Mul", bent, g.number(cap))
    scores = g.op("Add", scores, bias)
    mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", scores, axis=-1), values),
                 perm=[0, 2, 1, 3])  # fmt: skip
    joined = g.op("Reshape", mixed, g.integers([0, 0, width]))
    x = g.op("Add", x, g.op("MatMul", joined, g.number(decoder.weights[f"{layer}.o"])))
    up = g.op("MatMul", g.normalise(x), g.number(decoder.weights[f"{layer}.up"]))
    up = g.op("Mul", up, g.op("Sigmoid", up))
    return g.op("Add", x, g.op("MatMul", up, g.number(decoder.weights[f"{layer}.down"])))


def save_tokenizer(folder: Path) -> int:
    """Writes a byte-level tokenizer with a few merges and the chat template; its vocabulary's size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the order was sent to the customer today"] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder / "tokenizer_config.json",
        {"eos_token": "<|end|>", "bos_token": None, "chat_template": CHAT_TEMPLATE},
    )
    return int(tokenizer.get_vocab_size())


def save_model(
    folder: Path,
    *,
    dtype: type[np.floating] = np.float32,
    position_ids: bool = True,
    graph_path: str = "model.onnx",
    seed: int = 7,
    shape: Shape = Shape(),
) -> TinyDecoder:
    """Writes a whole Optimum-style folder and returns the weights, to compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    decoder = TinyDecoder.make(save_tokenizer(folder), seed, shape)
    graph = folder / graph_path
    graph.parent.mkdir(exist_ok=True)
    onnx.save(build_graph(decoder, dtype=dtype, position_ids=position_ids), str(graph))
    write(
        folder / "config.json",
        {
            "model_type": "llama",
            "max_position_embeddings": shape.context,
            "vocab_size": decoder.vocab_size,
            "num_attention_heads": shape.heads,
            "hidden_size": shape.width,
            "eos_token_id": 0,
        },
    )
    write(folder / "generation_config.json", {"eos_token_id": [0]})
    return decoder


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
