"""One instance and its models as values: what a decision may look at."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class InstanceState(enum.Enum):
    """Whether an instance is used."""

    READY = "ready"
    SUSPECT = "suspect"
    EJECTED = "ejected"
    CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as one instance serves it. Speeds are 0 until measured; qualities by task tag, "" for all tasks.

    `token_interval_us` is the time from one token of an answer to the next if one more request came now. A step of a
    batch takes `step_us` as such, which its requests share.
    """

    name: str
    digest: str = ""
    context_length: int = 0
    capabilities: frozenset[str] = frozenset()
    qualities: Mapping[str, float] = field(default_factory=dict)
    bytes_per_token: float = 0.0
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    token_interval_us: float = 0.0
    step_us: float = 0.0


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance at one moment. `rtt_us` is the smoothed round trip, 0 until measured."""

    instance_id: str
    tier: str
    region: str
    address: str = ""
    state: InstanceState = InstanceState.READY
    models: tuple[ModelView, ...] = ()
    running_count: int = 0
    queued_count: int = 0
    capacity_count: int = 1
    rtt_us: int = 0
