"""What routing knows of a request: sizes, needs and limits. The text itself is none of its business."""

from __future__ import annotations

import enum
from typing import NamedTuple

DEFAULT_MAX_TOKENS = 256  # what engines take when a request names none; see inference.proto


class Privacy(enum.Enum):
    """How far a prompt may travel."""

    EDGE_ONLY = "edge_only"
    REGION = "region"
    ANY = "any"


class Limits(NamedTuple):
    """Hard limits; 0 or empty is no limit."""

    max_cost_nano_usd: int = 0
    max_first_token_ms: int = 0
    max_total_ms: int = 0
    min_quality_ratio: float = 0.0
    residency: frozenset[str] = frozenset()
    privacy: Privacy = Privacy.ANY


NO_LIMITS = Limits()


class RequestFeatures(NamedTuple):
    """One request. `model` empty means any; `needs` are capabilities it cannot do without."""

    input_bytes: int
    message_count: int
    max_tokens: int = DEFAULT_MAX_TOKENS
    model: str = ""
    task: str = ""
    needs: frozenset[str] = frozenset()
    limits: Limits = NO_LIMITS
