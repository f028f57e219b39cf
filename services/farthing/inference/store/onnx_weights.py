"""Counts an ONNX graph's weights and names their precision, straight from the file's wire format.

The session does not tell, and loading the whole graph into protobuf objects would cost its size in memory.
Field numbers: onnx.proto3 of the ONNX project.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from farthing.inference.store.onnx_wire import (
    GraphTensor,
    Span,
    fields,
    graph_parts,
    map_graph,
    read_tensor,
    spans,
)

_NODE_INPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER = 1, 3

# Types that weights come in; integers of 32 and 64 bits are shapes and indices.
_PRECISIONS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16", 17: "fp8"}
# Packs several weights into a byte; its attributes tell how many there are.
_PACKED_OP = b"MatMulNBits"
_MOST_PARAMETER_COUNT = 1 << 48


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """`precision` is the one most parameters have; empty for a graph without weights."""

    parameter_count: int
    precision: str


def read_weights(graph: Path) -> WeightFacts:
    """The weights of a graph, those in files beside it included. InvalidArgument when it is no ONNX file."""
    with map_graph(graph) as data:
        return _count(data)


def _count(data: mmap.mmap) -> WeightFacts:
    counts: dict[str, int] = {}
    packed: set[bytes] = set()
    tensors: list[GraphTensor] = []
    for is_node, inner in graph_parts(data):
        if not is_node:
            tensors.append(read_tensor(data, inner))
        elif (found := _packed_node(data, inner)) is not None:
            names, bits, count = found
            packed |= names
            counts[f"int{bits}"] = counts.get(f"int{bits}", 0) + count
    for tensor in tensors:
        if tensor.name not in packed and tensor.kind in _PRECISIONS:
            precision = _PRECISIONS[tensor.kind]
            counts[precision] = counts.get(precision, 0) + tensor.value_count
    total = sum(counts.values())
    if total > _MOST_PARAMETER_COUNT:
        raise ValueError(f"{total} parameters")
    return WeightFacts(total, max(counts, key=lambda p: counts[p]) if counts else "")


def _packed_node(data: mmap.mmap, span: Span) -> tuple[set[bytes], int, int] | None:
    inputs: list[bytes] = []
    attributes: dict[bytes, int] = {}
    is_packed = False
    for number, inner in spans(data, span):
        if number == _NODE_INPUT:
            inputs.append(data[inner[0] : inner[1]])
        elif number == _NODE_OP_TYPE:
            is_packed = data[inner[0] : inner[1]] == _PACKED_OP
        elif number == _NODE_ATTRIBUTE:
            name, integer = b"", 0
            for field, _, value in fields(data, inner):
                if field == _ATTRIBUTE_NAME and isinstance(value, tuple):
                    name = data[value[0] : value[1]]
                elif field == _ATTRIBUTE_INTEGER and isinstance(value, int):
                    integer = value
            attributes[name] = integer
    if not is_packed:
        return None
    return (
        set(inputs[1:]),
        attributes.get(b"bits", 4),
        attributes.get(b"K", 0) * attributes.get(b"N", 0),
    )
