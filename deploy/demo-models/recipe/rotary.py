"""Tables of rotary position embeddings, shared by training and by the ONNX export."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipe.configs import Shape


def cosine_and_sine_tables(shape: Shape) -> tuple[Any, Any]:
    """Two float32 arrays [context, head_dim], each half of a row repeating the other."""
    exponents = np.arange(0, shape.head_dim, 2, dtype=np.float64) / shape.head_dim
    angles = np.arange(shape.context_length)[:, None] / shape.rope_theta**exponents
    doubled = np.concatenate((angles, angles), axis=1)
    return np.cos(doubled).astype(np.float32), np.sin(doubled).astype(np.float32)
