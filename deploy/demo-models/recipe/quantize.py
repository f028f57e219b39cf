"""Quantization of a GGUF file by llama.cpp itself."""

from __future__ import annotations

import ctypes
from pathlib import Path


class QuantizationError(RuntimeError):
    """llama.cpp refused to quantize a file."""


def quantize_to_q8_0(source: Path, output: Path) -> None:
    """Write `source` (F16) as `output` with 8-bit blocks of 32 weights.

    The 256-wide K formats are out of reach: the small model's rows are 64 long.
    """
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    settings.nthread = 1
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(output).encode(), ctypes.byref(settings)
    )
    if status != 0:
        raise QuantizationError(f"llama.cpp returned {status} while quantizing {source}")
