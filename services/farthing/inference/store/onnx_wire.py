"""Walks an ONNX graph in the file's own wire format, without loading it: hostile lengths end in ValueError.

Field numbers: onnx.proto3 of the ONNX project.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from farthing.kit.errors import InvalidArgument

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_SPARSE_PARTS = (1, 2)
_TENSOR_DIMENSIONS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_LOCATION_EXTERNAL = 1

VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5

# Merged decoders nest one graph in another once or twice.
_MOST_DEPTH = 8
_MOST_DIMENSION_COUNT = 16
_MOST_VALUE_COUNT = 1 << 44

Span = tuple[int, int]
"""Where the bytes of a message lie: first, and one past the last."""


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """A constant of the graph. `external` has the entries of one whose bytes lie in another file."""

    name: bytes
    kind: int
    value_count: int
    external: dict[str, str] | None


@contextmanager
def map_graph(graph: Path) -> Iterator[mmap.mmap]:
    """The file's bytes. InvalidArgument when they, or what the body reads of them, are no ONNX graph."""
    if graph.stat().st_size == 0:
        raise broken_graph(graph)
    with (
        graph.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            yield data
        except (IndexError, ValueError):
            raise broken_graph(graph) from None


def broken_graph(graph: Path) -> InvalidArgument:
    """The error for a file that is no ONNX graph."""
    return InvalidArgument(
        f"{graph.name} is not a readable ONNX file; fetch or export it again",
        field="source",
        reason="MODEL_CORRUPT",
        metadata={"path": str(graph)},
    )


def graph_parts(data: mmap.mmap) -> Iterator[tuple[bool, Span]]:
    """(is it a node, its place) of every node and constant of the main graph."""
    for number, span in spans(data, (0, len(data))):
        if number == _MODEL_GRAPH:
            for part, inner in spans(data, span):
                if part in (_GRAPH_NODE, _GRAPH_INITIALIZER):
                    yield part == _GRAPH_NODE, inner


def all_tensors(data: mmap.mmap) -> Iterator[GraphTensor]:
    """Every constant, also those inside nodes and nested graphs."""
    for number, span in spans(data, (0, len(data))):
        if number == _MODEL_GRAPH:
            yield from _graph_tensors(data, span, _MOST_DEPTH)


def _graph_tensors(data: mmap.mmap, graph: Span, depth: int) -> Iterator[GraphTensor]:
    if depth == 0:
        raise ValueError("graphs are nested too deeply")
    for part, inner in spans(data, graph):
        if part == _GRAPH_INITIALIZER:
            yield read_tensor(data, inner)
        elif part == _GRAPH_SPARSE:
            for number, tensor in spans(data, inner):
                if number in _SPARSE_PARTS:
                    yield read_tensor(data, tensor)
        elif part == _GRAPH_NODE:
            for number, attribute in spans(data, inner):
                if number == _NODE_ATTRIBUTE:
                    yield from _attribute_tensors(data, attribute, depth)


def _attribute_tensors(data: mmap.mmap, attribute: Span, depth: int) -> Iterator[GraphTensor]:
    for number, inner in spans(data, attribute):
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            yield read_tensor(data, inner)
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            yield from _graph_tensors(data, inner, depth - 1)


def read_tensor(data: mmap.mmap, span: Span) -> GraphTensor:
    """What a constant says of itself. ValueError for sizes that nothing has."""
    name, kind, location, dimensions = b"", 0, 0, list[int]()
    external: dict[str, str] = {}
    for number, wire, value in fields(data, span):
        if number == _TENSOR_DIMENSIONS and isinstance(value, int):
            dimensions.append(value)
        elif number == _TENSOR_DIMENSIONS and wire == BYTES and isinstance(value, tuple):
            dimensions += _packed(data, value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME and isinstance(value, tuple):
            name = data[value[0] : value[1]]
        elif number == _TENSOR_LOCATION and isinstance(value, int):
            location = value
        elif number == _TENSOR_EXTERNAL and isinstance(value, tuple):
            key, text = _entry(data, value)
            external[key] = text
        if len(dimensions) > _MOST_DIMENSION_COUNT:
            raise ValueError("too many dimensions")
    count = prod(dimensions)
    if count > _MOST_VALUE_COUNT:
        raise ValueError(f"a tensor of {count} values")
    return GraphTensor(name, kind, count, external if location == _LOCATION_EXTERNAL else None)


def _packed(data: mmap.mmap, span: Span) -> list[int]:
    place, end = span
    values: list[int] = []
    while place < end and len(values) <= _MOST_DIMENSION_COUNT:
        value, place = _varint(data, place)
        values.append(value)
    return values


def _entry(data: mmap.mmap, span: Span) -> tuple[str, str]:
    key = value = ""
    for number, inner in spans(data, span):
        if inner[1] - inner[0] > 4096:
            raise ValueError("a long entry")
        text = data[inner[0] : inner[1]].decode()  # UnicodeDecodeError is a ValueError
        key, value = (text, value) if number == _ENTRY_KEY else (key, text)
    return key, value


def spans(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """(field number, place) of the messages, texts and bytes inside a message."""
    for number, _, value in fields(data, span):
        if isinstance(value, tuple):
            yield number, value


def fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int, int | Span]]:
    """(field number, wire type, value): an integer, or where the bytes lie. IndexError, ValueError when broken."""
    place, end = span
    while place < end:
        key, place = _varint(data, place)
        wire = key & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            yield key >> 3, wire, value
            continue
        if wire == BYTES:
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
