"""Counts an ONNX graph's weights and names their precision, straight from the file's wire format.

The session does not tell, and loading the whole graph into protobuf objects would cost its size in memory.
Field numbers: onnx.proto3 of the ONNX project.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from farthing.kit.errors import InvalidArgument

_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER = 1, 3
_TENSOR_DIMENSIONS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Types that weights come in; integers of 32 and 64 bits are shapes and indices.
_PRECISIONS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16", 17: "fp8"}
# Packs several weights into a byte; its attributes tell how many there are.
_PACKED_OP = b"MatMulNBits"

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """`precision` is the one most parameters have; empty for a graph without weights."""

    parameter_count: int
    precision: str


def read_weights(graph: Path) -> WeightFacts:
    """The weights of a graph, those in files beside it included. InvalidArgument when it is no ONNX file."""
    if graph.stat().st_size == 0:
        raise _broken(graph)
    with (
        graph.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            return _count(data)
        except (IndexError, ValueError):
            raise _broken(graph) from None


def _count(data: mmap.mmap) -> WeightFacts:
    counts: dict[str, int] = {}
    packed: set[bytes] = set()
    tensors: list[tuple[bytes, int, int]] = []
    for number, span in _spans(data, (0, len(data))):
        if number != _GRAPH:
            continue
        for part, inner in _spans(data, span):
            if part == _INITIALIZER:
                tensors.append(_tensor(data, inner))
            elif part == _NODE and (found := _packed_node(data, inner)) is not None:
                names, bits, count = found
                packed |= names
                counts[f"int{bits}"] = counts.get(f"int{bits}", 0) + count
    for name, kind, count in tensors:
        if name not in packed and kind in _PRECISIONS:
            precision = _PRECISIONS[kind]
            counts[precision] = counts.get(precision, 0) + count
    return WeightFacts(
        sum(counts.values()), max(counts, key=lambda p: counts[p]) if counts else ""
    )


def _tensor(data: mmap.mmap, span: _Span) -> tuple[bytes, int, int]:
    name, kind, dimensions = b"", 0, list[int]()
    for number, wire, value in _fields(data, span):
        if number == _TENSOR_DIMENSIONS and isinstance(value, int):
            dimensions.append(value)
        elif number == _TENSOR_DIMENSIONS and wire == _BYTES and isinstance(value, tuple):
            place, end = value
            while place < end:
                dimension, place = _varint(data, place)
                dimensions.append(dimension)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME and isinstance(value, tuple):
            name = data[value[0] : value[1]]
    return name, kind, prod(dimensions)


def _packed_node(data: mmap.mmap, span: _Span) -> tuple[set[bytes], int, int] | None:
    inputs: list[bytes] = []
    attributes: dict[bytes, int] = {}
    is_packed = False
    for number, inner in _spans(data, span):
        if number == _NODE_INPUT:
            inputs.append(data[inner[0] : inner[1]])
        elif number == _NODE_OP_TYPE:
            is_packed = data[inner[0] : inner[1]] == _PACKED_OP
        elif number == _NODE_ATTRIBUTE:
            name, integer = b"", 0
            for field, _, value in _fields(data, inner):
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


def _spans(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, _Span]]:
    for number, _, value in _fields(data, span):
        if isinstance(value, tuple):
            yield number, value


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int, int | _Span]]:
    """(field number, wire type, value): an integer, or where the bytes lie."""
    place, end = span
    while place < end:
        key, place = _varint(data, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, wire, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(wire)
        if place + size > end:
            raise ValueError(size)
        yield key >> 3, wire, (place, place + size)
        place += size


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(shift)


def _broken(graph: Path) -> InvalidArgument:
    return InvalidArgument(
        f"{graph.name} is not a readable ONNX file; fetch or export it again",
        field="source",
        reason="MODEL_CORRUPT",
        metadata={"path": str(graph)},
    )
