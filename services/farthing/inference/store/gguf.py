"""Reads a GGUF file's header and proves that every tensor it promises lies inside the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from farthing.inference.store.facts import ModelFacts
from farthing.inference.store.gguf_tables import ARCHITECTURES, FILE_TYPES, TENSOR_TYPES
from farthing.kit.errors import InvalidArgument, Unimplemented

Scalar = int | float | bool | str

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# Real headers stay far below these: the largest vocabularies have about 260,000 tokens and 10 MB of text.
_MAX_ENTRY_COUNT = 1 << 20
_MAX_TEXT_COUNT = 1 << 23
_MAX_STRING_BYTES = 1 << 24
_MAX_HEADER_BYTES = 1 << 28
# ggml.h: GGML_MAX_DIMS and GGML_MAX_NAME, the closing zero included.
_MAX_DIMENSION_COUNT = 4
_MAX_TENSOR_NAME_BYTES = 63
# What the contracts can carry.
_MAX_INT32 = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: where its bytes lie, from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset_bytes: int
    size_bytes: int


_TensorHeader = tuple[str, tuple[int, ...], str, int, int]
"""Name, shape, type, offset in the data and size in bytes."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A parsed header. `metadata` holds scalars and texts; `array_counts` the length of every array."""

    version: int
    metadata: dict[str, Scalar]
    array_counts: dict[str, int]
    tensors: tuple[Tensor, ...]


class _Reader:
    def __init__(self, file: BinaryIO, path: Path, size_bytes: int) -> None:
        self._file, self._path, self._size_bytes = file, path, size_bytes
        self._position = 0

    def take(self, count: int) -> bytes:
        self._advance(count)
        data = self._file.read(count)
        if len(data) < count:
            raise corrupt(self._path, "the header ends early; the file is truncated")
        return data

    def number(self, code: str) -> int:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return int(value)

    def text(self) -> str:
        size = self.number("Q")
        if size > _MAX_STRING_BYTES:
            raise corrupt(self._path, f"a text of {size} bytes in the header")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise corrupt(self._path, "a text in the header is not UTF-8") from None

    def skip(self, count: int) -> None:
        self._advance(count)
        self._file.seek(count, os.SEEK_CUR)

    def position(self) -> int:
        return self._position

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > self._size_bytes:
            raise corrupt(self._path, "the header ends early; the file is truncated")
        if self._position > _MAX_HEADER_BYTES:
            raise corrupt(self._path, f"its header is larger than {_MAX_HEADER_BYTES} bytes")


def corrupt(path: Path, finding: str) -> InvalidArgument:
    """The error for a file that is not what it claims to be."""
    return InvalidArgument(
        f"{path.name} is not a usable GGUF file: {finding}; fetch it again",
        field="source",
        reason="MODEL_CORRUPT",
        metadata={"path": str(path), "finding": finding},
    )


def read_header(path: Path) -> GgufHeader:
    """Parses the header and checks every tensor's extent. InvalidArgument says what is wrong."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, path, size_bytes)
        if reader.take(4) != b"GGUF":
            raise corrupt(path, "it does not start with the GGUF magic number")
        version = reader.number("I")
        if version not in (2, 3):
            raise corrupt(path, f"GGUF version {version}; versions 2 and 3 are supported")
        tensor_count, entry_count = reader.number("Q"), reader.number("Q")
        if max(tensor_count, entry_count) > _MAX_ENTRY_COUNT:
            raise corrupt(path, f"{tensor_count} tensors and {entry_count} entries announced")
        metadata: dict[str, Scalar] = {}
        array_counts: dict[str, int] = {}
        for _ in range(entry_count):
            _read_entry(reader, path, metadata, array_counts)
        headers = [_read_tensor(reader, path) for _ in range(tensor_count)]
        position = reader.position()
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise corrupt(path, f"alignment {alignment}")
    tensors = _place_tensors(path, headers, position, alignment)
    for tensor in tensors:
        if tensor.offset_bytes + tensor.size_bytes > size_bytes:
            raise corrupt(
                path,
                f"tensor {tensor.name} ends at byte {tensor.offset_bytes + tensor.size_bytes}, "
                f"the file at {size_bytes}; it is truncated",
            )
    return GgufHeader(version, metadata, array_counts, tensors)


def _place_tensors(
    path: Path, headers: Sequence[_TensorHeader], position: int, alignment: int
) -> tuple[Tensor, ...]:
    """Tensors by their place in the file; they follow each other without gaps, or llama.cpp refuses the file."""
    start = _round_up(position, alignment)
    expected, names, placed = 0, set[str](), []
    for name, shape, type_name, offset, size in headers:
        if name in names:
            raise corrupt(path, f"tensor {name} is there twice")
        if offset != expected:
            raise corrupt(path, f"tensor {name} is announced at {offset} instead of {expected}")
        names.add(name)
        placed.append(Tensor(name, shape, type_name, start + offset, size))
        expected = _round_up(offset + size, alignment)
    return tuple(placed)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def check_gguf(path: Path) -> ModelFacts:
    """Facts of a GGUF language model. InvalidArgument: corrupt; Unimplemented: not a model we serve."""
    header = read_header(path)
    architecture = str(header.metadata.get("general.architecture", ""))
    if architecture not in ARCHITECTURES:
        raise Unimplemented(
            f"{path.name} has architecture {architecture or 'unnamed'!r}, which the edge engine does not "
            "generate text with; choose a decoder-only model such as llama, qwen3, gemma3 or phi3",
            reason="MODEL_ARCHITECTURE_UNSUPPORTED",
            metadata={"architecture": architecture, "path": str(path)},
        )
    if _integer(header, "split.count") > 1:
        raise Unimplemented(
            f"{path.name} is one part of several; join the parts with llama-gguf-split --merge first",
            reason="MODEL_SPLIT_UNSUPPORTED",
            metadata={"path": str(path)},
        )
    vocab_size = header.array_counts.get("tokenizer.ggml.tokens", 0)
    if not header.tensors or not vocab_size:
        missing = "tensors" if vocab_size else "tokenizer"
        raise corrupt(path, f"it has no {missing}")
    context_length = _integer(header, f"{architecture}.context_length")
    if not 0 <= context_length <= _MAX_INT32:
        raise corrupt(path, f"a context length of {context_length} tokens")
    return ModelFacts(
        format="gguf",
        architecture=architecture,
        quantization=_quantization(header),
        parameter_count=sum(prod(tensor.shape) for tensor in header.tensors),
        context_length=context_length,
        vocab_size=vocab_size,
        title=_line(header, "general.name"),
        licence=_line(header, "general.license"),
    )


def _integer(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


def _line(header: GgufHeader, key: str) -> str:
    """A text of the header as one printable line of at most 200 characters."""
    text = str(header.metadata.get(key, ""))
    return "".join(mark if mark.isprintable() else " " for mark in text).strip()[:200]


def _quantization(header: GgufHeader) -> str:
    if "general.file_type" in header.metadata:
        known = FILE_TYPES.get(_integer(header, "general.file_type"))
        if known:
            return known
    sizes: dict[str, int] = {}
    for tensor in header.tensors:
        sizes[tensor.type_name] = sizes.get(tensor.type_name, 0) + tensor.size_bytes
    return max(sizes, key=lambda name: sizes[name])


def _read_entry(
    reader: _Reader, path: Path, metadata: dict[str, Scalar], array_counts: dict[str, int]
) -> None:
    key = reader.text()
    if key in metadata or key in array_counts:
        raise corrupt(path, f"metadata {_shorten(key)} is there twice")
    kind = reader.number("I")
    if kind != _ARRAY:
        metadata[key] = _read_scalar(reader, path, kind)
        return
    item_kind, count = reader.number("I"), reader.number("Q")
    array_counts[key] = count
    if item_kind == _STRING:
        if count > _MAX_TEXT_COUNT:
            raise corrupt(path, f"metadata {_shorten(key)} announces {count} texts")
        for _ in range(count):
            size = reader.number("Q")
            reader.skip(size)
    elif item_kind in _SCALARS:
        reader.skip(count * struct.calcsize("<" + _SCALARS[item_kind]))
    else:
        raise corrupt(path, f"metadata {_shorten(key)} is an array of unknown type {item_kind}")


def _read_scalar(reader: _Reader, path: Path, kind: int) -> Scalar:
    if kind == _STRING:
        return reader.text()
    if kind not in _SCALARS:
        raise corrupt(path, f"a metadata value of unknown type {kind}")
    code = "<" + _SCALARS[kind]
    value: Scalar = struct.unpack(code, reader.take(struct.calcsize(code)))[0]
    return value


def _read_tensor(reader: _Reader, path: Path) -> _TensorHeader:
    name = reader.text()
    if len(name.encode()) > _MAX_TENSOR_NAME_BYTES:
        raise corrupt(path, f"a tensor's name is longer than {_MAX_TENSOR_NAME_BYTES} bytes")
    dimension_count = reader.number("I")
    if dimension_count > _MAX_DIMENSION_COUNT:
        raise corrupt(path, f"tensor {name} has {dimension_count} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimension_count))
    kind = reader.number("I")
    if kind not in TENSOR_TYPES:
        raise corrupt(path, f"tensor {name} has unknown type {kind}")
    type_name, block_values, block_bytes = TENSOR_TYPES[kind]
    row = shape[0] if shape else 1
    if row % block_values:
        raise corrupt(
            path,
            f"tensor {name} has rows of {row} values, which do not fill {type_name} blocks",
        )
    values = prod(shape)
    return name, shape, type_name, reader.number("Q"), values // block_values * block_bytes


def _shorten(text: str) -> str:
    return repr(text[:60])
