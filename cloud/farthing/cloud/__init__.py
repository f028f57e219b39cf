"""The cloud tier: inference over ONNX Runtime, on CUDA where there is one and on the CPU elsewhere."""

from __future__ import annotations
