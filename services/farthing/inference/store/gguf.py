"""Reads a GGUF file's header and proves that every tensor it promises lies inside the file."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from farthing.inference.store.facts import ModelFacts
from farthing.kit.errors import InvalidArgument, Unimplemented

Scalar = int | float | bool | str

# Decoder-only text models that the pinned llama.cpp generates with. Encoders, vision parts and
# codecs share the container and would load far enough to answer nonsense.
ARCHITECTURES = frozenset(
    "llama llama4 deci falcon falcon-h1 baichuan grok gpt2 gptneox mpt starcoder starcoder2 refact "
    "bloom stablelm qwen qwen2 qwen2moe qwen3 qwen3moe qwen3next qwen35 qwen35moe phi2 phi3 phimoe "
    "plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n "
    "gemma4 rwkv6 rwkv6qwen2 rwkv7 arwkv7 mamba mamba2 jamba xverse command-r cohere2 dbrx olmo "
    "olmo2 olmoe openelm arctic deepseek deepseek2 chatglm glm4 glm4moe bitnet jais nemotron "
    "nemotron_h exaone exaone4 exaone-moe granite granitemoe granitehybrid plm bailingmoe "
    "bailingmoe2 dots1 arcee afmoe ernie4_5 ernie4_5-moe hunyuan-moe hunyuan-dense smollm3 gpt-oss "
    "lfm2 lfm2moe smallthinker seed_oss grovemoe apertus minimax-m2 mistral3 mistral4 "
    "kimi-linear".split()
)

# ggml type number -> (name, values per block, bytes per block): ggml.h of the pinned llama.cpp.
TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# general.file_type -> the name people know the file by: llama.h of the pinned llama.cpp.
FILE_TYPES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}

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
_MAX_ENTRY_COUNT = 1 << 20
_MAX_STRING_BYTES = 1 << 24
_MAX_DIMENSION_COUNT = 4


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: where its bytes lie, from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset_bytes: int
    size_bytes: int


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

    def take(self, count: int) -> bytes:
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
        if self._file.tell() + count > self._size_bytes:
            raise corrupt(self._path, "the header ends early; the file is truncated")
        self._file.seek(count, os.SEEK_CUR)

    def position(self) -> int:
        return self._file.tell()


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
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise corrupt(path, f"alignment {alignment}")
        start = -(-reader.position() // alignment) * alignment
    tensors = tuple(
        Tensor(name, shape, type_name, start + offset, size)
        for name, shape, type_name, offset, size in headers
    )
    for tensor in tensors:
        if tensor.offset_bytes + tensor.size_bytes > size_bytes:
            raise corrupt(
                path,
                f"tensor {tensor.name} ends at byte {tensor.offset_bytes + tensor.size_bytes}, "
                f"the file at {size_bytes}; it is truncated",
            )
    return GgufHeader(version, metadata, array_counts, tensors)


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
    return ModelFacts(
        format="gguf",
        architecture=architecture,
        quantization=_quantization(header),
        parameter_count=sum(prod(tensor.shape) for tensor in header.tensors),
        context_length=_integer(header, f"{architecture}.context_length"),
        vocab_size=vocab_size,
        title=str(header.metadata.get("general.name", "")),
    )


def _integer(header: GgufHeader, key: str) -> int:
    value = header.metadata.get(key, 0)
    return value if isinstance(value, int) else 0


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
    kind = reader.number("I")
    if kind != _ARRAY:
        metadata[key] = _read_scalar(reader, path, kind)
        return
    item_kind, count = reader.number("I"), reader.number("Q")
    array_counts[key] = count
    if item_kind == _STRING:
        for _ in range(count):
            size = reader.number("Q")
            reader.skip(size)
    elif item_kind in _SCALARS:
        reader.skip(count * struct.calcsize("<" + _SCALARS[item_kind]))
    else:
        raise corrupt(path, f"metadata {key} is an array of unknown type {item_kind}")


def _read_scalar(reader: _Reader, path: Path, kind: int) -> Scalar:
    if kind == _STRING:
        return reader.text()
    if kind not in _SCALARS:
        raise corrupt(path, f"a metadata value of unknown type {kind}")
    code = "<" + _SCALARS[kind]
    value: Scalar = struct.unpack(code, reader.take(struct.calcsize(code)))[0]
    return value


def _read_tensor(reader: _Reader, path: Path) -> tuple[str, tuple[int, ...], str, int, int]:
    name = reader.text()
    dimension_count = reader.number("I")
    if dimension_count > _MAX_DIMENSION_COUNT:
        raise corrupt(path, f"tensor {name} has {dimension_count} dimensions")
    shape = tuple(reader.number("Q") for _ in range(dimension_count))
    kind = reader.number("I")
    if kind not in TENSOR_TYPES:
        raise corrupt(path, f"tensor {name} has unknown type {kind}")
    type_name, block_values, block_bytes = TENSOR_TYPES[kind]
    values = prod(shape)
    if values % block_values:
        raise corrupt(
            path, f"tensor {name} of {values} values does not fill {type_name} blocks"
        )
    return name, shape, type_name, reader.number("Q"), values // block_values * block_bytes
