"""Finds the attention of each layer by its landmarks: where the cache enters, the softmax, where heads are joined.

Exporters write everything between those in their own ways, so nothing there is matched: `probes` asks the graph
itself what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx

from farthing.cloud.graph.document import Document, NotConvertible, attribute

_LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
_SCALING = frozenset({"Mul", "Div", "Expand"})
_PROJECTIONS = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulBnb4"})
# What may stand between a projection and the split into heads.
_FLAT = frozenset({"Add", "Cast", "Split", "Slice", "Mul"})
_SHAPES = frozenset({"Shape", "Size", "ConstantOfShape"})


@dataclass(frozen=True, slots=True)
class Core:
    """One layer's attention. Names of tensors; where the text says "likeliest first", shapes decide.

    `key` and `value` are the new tokens' own, [batch, kv heads, count, head]; the queries [batch, heads, count, head];
    the results [batch, count, heads × head]. `flat_*` are the projections [batch, count, any] that those are made from,
    empty when it is not one tensor.
    """

    layer: int
    past_key: str
    past_value: str
    present_key: str
    present_value: str
    key: str
    value: str
    queries: tuple[str, ...]
    results: tuple[str, ...]
    flat_query: str
    flat_key: str
    flat_value: str


def find_cores(document: Document, layers: int) -> list[Core]:
    """The attention of every layer, by the cache inputs of Optimum's naming. NotConvertible tells what is not there."""
    dependent = value_dependent(document)
    return [_find_core(document, dependent, layer) for layer in range(layers)]


def value_dependent(document: Document) -> set[str]:
    """Every tensor whose values, not only its shape, depend on the tokens."""
    return document.downstream(["input_ids"], lambda node: node.op_type not in _SHAPES)


def is_projection(node: onnx.NodeProto | None, dependent: set[str]) -> bool:
    """Whether a node multiplies the tokens' values with weights."""
    return (
        node is not None
        and node.op_type in _PROJECTIONS
        and sum(name in dependent for name in node.input[:2]) == 1
    )


def projection_input(node: onnx.NodeProto, dependent: set[str]) -> int:
    """Which input of a projection holds the tokens' values."""
    return 0 if node.input[0] in dependent else 1


def _find_core(document: Document, dependent: set[str], layer: int) -> Core:
    past = {part: f"past_key_values.{layer}.{part}" for part in ("key", "value")}
    present = {part: f"present.{layer}.{part}" for part in ("key", "value")}
    new = {part: _appended(document, past[part], present[part]) for part in ("key", "value")}
    scores = _next_product(document, dependent, [present["key"]], f"layer {layer}'s keys")
    if scores.op_type == "Attention":
        query, mixed = scores.input[0], scores.output[0]
    else:
        keys = document.downstream(
            [present["key"]], lambda node: not _is_product(node, dependent)
        )
        query = scores.input[0] if scores.input[1] in keys else scores.input[1]
        mixed = _mixed_values(document, dependent, present["value"], scores.output[0], layer)
    queries = _queries(document, dependent, query)
    return Core(
        layer=layer,
        past_key=past["key"],
        past_value=past["value"],
        present_key=present["key"],
        present_value=present["value"],
        key=new["key"],
        value=new["value"],
        queries=queries,
        results=_results(document, mixed),
        flat_query=_flat_source(document, dependent, queries[0]),
        flat_key=_flat_source(document, dependent, new["key"]),
        flat_value=_flat_source(document, dependent, new["value"]),
    )


def _appended(document: Document, past: str, present: str) -> str:
    """What the Concat of a cache input appends to it."""
    joins = [n for n in document.readers.get(past, []) if n.op_type not in _SHAPES]
    if len(joins) != 1 or joins[0].op_type != "Concat" or len(joins[0].input) != 2:
        kinds = ", ".join(sorted({n.op_type for n in joins})) or "nothing"
        raise NotConvertible(
            f"{past} goes into {kinds}, not into one Concat with the new tokens'"
        )
    join = joins[0]
    if join.input[0] != past or attribute(join, "axis") not in (2, -2):
        raise NotConvertible(f"{past} is not joined in front of the new tokens'")
    if join.output[0] != present:
        raise NotConvertible(f"{past} joined with the new tokens' is not {present}")
    return str(join.input[1])


def _is_product(node: onnx.NodeProto, dependent: set[str]) -> bool:
    """A product of two tensors that both depend on the tokens, or the operator that holds it all."""
    if node.op_type == "Attention":
        return True
    return node.op_type in _PROJECTIONS and all(name in dependent for name in node.input[:2])


def _next_product(
    document: Document, dependent: set[str], starts: Iterable[str], what: str
) -> onnx.NodeProto:
    found = _reached(document, starts, lambda node: _is_product(node, dependent))
    if len(found) != 1:
        raise NotConvertible(f"{what} go into {len(found)} products instead of one")
    return found[0]


def _mixed_values(
    document: Document, dependent: set[str], present_value: str, scores: str, layer: int
) -> str:
    softmaxes = _reached(document, [scores], lambda node: node.op_type == "Softmax")
    if len(softmaxes) != 1:
        raise NotConvertible(f"layer {layer} has {len(softmaxes)} softmaxes instead of one")
    product = _next_product(document, dependent, softmaxes[0].output, f"layer {layer}'s shares")
    values = document.downstream([present_value], lambda node: not _is_product(node, dependent))
    if not any(name in values for name in product.input):
        raise NotConvertible(f"layer {layer}'s shares are not multiplied with its values")
    return str(product.output[0])


def _reached(
    document: Document, starts: Iterable[str], wanted: Callable[[onnx.NodeProto], bool]
) -> list[onnx.NodeProto]:
    """The first nodes of a kind on every way from `starts`."""
    found: dict[int, onnx.NodeProto] = {}

    def passes(node: onnx.NodeProto) -> bool:
        if wanted(node):
            found[id(node)] = node
            return False
        return node.op_type not in _SHAPES

    document.downstream(starts, passes)
    return list(found.values())


def _queries(document: Document, dependent: set[str], operand: str) -> tuple[str, ...]:
    """Tensors from the product's operand back to what is rotated, the last first."""
    chain = [operand]
    while True:
        maker = document.maker.get(chain[-1])
        if maker is None or maker.op_type not in _LAYOUT | _SCALING:
            return tuple(reversed(chain))
        sources = [name for name in maker.input if name in dependent]
        if len(sources) != 1:
            return tuple(reversed(chain))
        chain.append(sources[0])


def _results(document: Document, mixed: str) -> tuple[str, ...]:
    """Tensors from the mixed values on to where the heads are joined, the last first."""
    chain = [mixed]
    while True:
        readers = [n for n in document.readers.get(chain[-1], []) if n.op_type not in _SHAPES]
        if len(readers) != 1 or readers[0].op_type not in _LAYOUT:
            return tuple(reversed(chain))
        chain.append(readers[0].output[0])


def _flat_source(document: Document, dependent: set[str], target: str) -> str:
    """The projection before the split into heads, when all of `target` comes from one; else empty."""
    found: set[str] = set()
    seen = {target}
    waiting = [target]
    while waiting:
        name = waiting.pop()
        maker = document.maker.get(name)
        if maker is None or is_projection(maker, dependent):
            return ""
        for source in maker.input:
            if source not in dependent or source in seen:
                continue
            seen.add(source)
            if maker.op_type == "Reshape" and _is_flat(document, dependent, source):
                found.add(source)
            else:
                waiting.append(source)
    return found.pop() if len(found) == 1 else ""


def _is_flat(document: Document, dependent: set[str], name: str, depth: int = 4) -> bool:
    """Whether only biases, casts and cuts lie between a projection and this tensor."""
    maker = document.maker.get(name)
    if is_projection(maker, dependent):
        return True
    if maker is None or maker.op_type not in _FLAT or depth == 0:
        return False
    sources = [source for source in maker.input if source in dependent]
    return len(sources) == 1 and _is_flat(document, dependent, sources[0], depth - 1)
