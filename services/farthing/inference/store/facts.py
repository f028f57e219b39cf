"""What a model file says about itself, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ModelFormat = Literal["gguf", "onnx"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Read from the artefact itself, never from its file name. Zero means that the file does not say."""

    format: ModelFormat
    architecture: str
    quantization: str
    parameter_count: int
    context_length: int
    vocab_size: int
    title: str
    licence: str = ""
    """As the file states it, empty when it does not."""
