"""The edge tier: inference over llama.cpp on quantized GGUF models."""

from __future__ import annotations
