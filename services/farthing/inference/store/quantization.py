"""Which quantizations there are, which a model can have, and what the result is called. No file is opened here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from farthing.inference.store.contents import StoredModel, slug
from farthing.inference.store.gguf import Tensor
from farthing.inference.store.gguf_tables import FILE_TYPES
from farthing.kit.errors import InvalidArgument

# Those that need no importance matrix, best first.
GGUF_KINDS = (
    *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"),
)
ONNX_KINDS = ("int8", "int4")
FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}

# Formats of blocks of 32 values; all others pack 256. ggml-common.h of the pinned llama.cpp.
_SMALL_BLOCKS = {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
_UNQUANTIZED = {"F32", "F16", "BF16", "fp32", "fp16", "bf16"}
_SUFFIX = re.compile(
    r"[-._]((?:i?q\d\w*)|f16|f32|bf16|fp16|fp32|int8|int4)$", re.IGNORECASE | re.ASCII
)


def parse_kind(model: StoredModel, text: str) -> str:
    """The quantization meant, as its format spells it. InvalidArgument lists those of the model's format."""
    kinds = GGUF_KINDS if model.format == "gguf" else ONNX_KINDS
    for kind in kinds:
        if kind.lower() == text.lower():
            return kind
    raise InvalidArgument(
        f"{text!r} is no quantization of a {model.format} model; use one of {', '.join(kinds)}",
        field="to",
        reason="QUANTIZATION_UNKNOWN",
        metadata={"kind": text},
    )


def require_unquantized(model: StoredModel, origin_name: str) -> None:
    """InvalidArgument for a model that has lost precision already; `origin_name` is the model it was made of."""
    found = model.facts.quantization if model.facts is not None else ""
    if found in _UNQUANTIZED:
        return
    advice = f"quantize {origin_name}" if origin_name else "add the unquantized one (F16)"
    raise InvalidArgument(
        f"{model.name} is quantized already ({found or 'unknown'}), and losses would add up; {advice} instead",
        field="model",
        reason="MODEL_QUANTIZED",
        metadata={"model": model.name, "quantization": found},
    )


def require_rows(model: StoredModel, kind: str, tensors: Sequence[Tensor]) -> None:
    """InvalidArgument when rows do not fill the blocks: llama.cpp would silently fall back to other types."""
    block = 32 if kind in _SMALL_BLOCKS else 256
    unfit = [t for t in tensors if _is_quantized(t) and t.shape[0] % block]
    if not unfit:
        return
    small = [k for k in GGUF_KINDS if k in _SMALL_BLOCKS]
    fitting = small if block == 256 and not any(t.shape[0] % 32 for t in unfit) else []
    advice = f"use {', '.join(fitting)}" if fitting else "it has to stay as it is"
    raise InvalidArgument(
        f"{model.name} cannot be {kind}: that packs {block} values of a row, and {len(unfit)} tensors have rows of "
        f"other lengths ({unfit[0].name}: {unfit[0].shape[0]}); {advice}",
        field="to",
        reason="QUANTIZATION_UNFIT",
        metadata={"model": model.name, "kind": kind, "tensor": unfit[0].name},
    )


def variant_name(name: str, kind: str) -> str:
    """A model's name with the quantization in it: chat-f16 → chat-q4_0, chat → chat-q4_0."""
    base = _SUFFIX.sub("", name) or name
    return f"{slug(base)[: 63 - len(kind)]}-{kind.lower()}"


def _is_quantized(tensor: Tensor) -> bool:
    """As llama.cpp chooses: matrices of weights. Norms and biases stay as they are."""
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and tensor.shape[1] > 1
