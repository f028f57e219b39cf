"""Checks that a graph is a decoder with a key/value cache in Optimum's naming, and names its inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from farthing.kit.errors import Unimplemented

_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_PLAIN_INPUTS = frozenset(
    {"input_ids", "attention_mask", "position_ids", "use_cache_branch", "num_logits_to_keep"}
)
_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16"}


@dataclass(frozen=True, slots=True)
class GraphValue:
    """One input or output: a dimension that is not a number is free; `element_type` as in `tensor(float)`."""

    name: str
    shape: tuple[int | None, ...]
    element_type: str


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """One layer's keys or values: fed as `past_name`, returned as `present_name`, [batch, heads, length, head]."""

    past_name: str
    present_name: str
    head_count: int
    head_dimension: int
    dtype: str


@dataclass(frozen=True, slots=True)
class DecoderSignature:
    """How to call a decoder graph. `dtype` names are numpy's."""

    has_attention_mask: bool
    has_position_ids: bool
    has_cache_branch: bool
    has_logits_count: bool
    logits_dtype: str
    vocab_size: int
    cache: tuple[CacheTensor, ...]

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token adds."""
        width = {"float16": 2, "float32": 4}
        return sum(c.head_count * c.head_dimension * width[c.dtype] for c in self.cache)


def unsupported(finding: str) -> Unimplemented:
    """The error for a graph that this engine cannot drive."""
    return Unimplemented(
        f"the ONNX graph is not a decoder this engine serves: {finding}; export it with Optimum's "
        "text-generation-with-past task",
        reason="MODEL_GRAPH_UNSUPPORTED",
        metadata={"finding": finding},
    )


def read_signature(
    inputs: Sequence[GraphValue],
    outputs: Sequence[GraphValue],
    *,
    head_count: int = 0,
    head_dimension: int = 0,
) -> DecoderSignature:
    """The signature of a decoder graph, or Unimplemented with what is missing or unknown.

    `head_count` and `head_dimension` (from config.json) stand in where the graph leaves those dimensions free.
    """
    given = {value.name: value for value in inputs}
    returned = {value.name: value for value in outputs}
    if "input_ids" not in given:
        raise unsupported(f"no input input_ids among {sorted(given)[:8]}")
    if "logits" not in returned:
        raise unsupported(f"no output logits among {sorted(returned)[:8]}")
    logits = returned["logits"]
    if logits.element_type not in _FLOATS or len(logits.shape) != 3:
        raise unsupported(
            f"logits of type {logits.element_type} and {len(logits.shape)} dimensions"
        )
    cache_names = [name for name in given if _PAST.fullmatch(name)]
    unknown = sorted(set(given) - _PLAIN_INPUTS - set(cache_names))
    if unknown:
        raise unsupported(f"unknown inputs {unknown[:8]}")
    if not cache_names:
        raise unsupported("no key/value cache (past_key_values.N.key and .value)")
    if "attention_mask" not in given and "position_ids" not in given:
        raise unsupported("neither attention_mask nor position_ids among the inputs")
    cache_names.sort(key=_cache_order)
    return DecoderSignature(
        has_attention_mask="attention_mask" in given,
        has_position_ids="position_ids" in given,
        has_cache_branch="use_cache_branch" in given,
        has_logits_count="num_logits_to_keep" in given,
        logits_dtype=_FLOATS[logits.element_type],
        vocab_size=logits.shape[2] or 0,
        cache=tuple(
            _cache_tensor(given[name], returned, head_count, head_dimension)
            for name in cache_names
        ),
    )


def _cache_order(name: str) -> tuple[int, str]:
    match = _PAST.fullmatch(name)
    assert match is not None
    return int(match[1]), match[2]


def _cache_tensor(
    past: GraphValue, returned: dict[str, GraphValue], head_count: int, head_dimension: int
) -> CacheTensor:
    present_name = past.name.replace("past_key_values", "present")
    if present_name not in returned:
        raise unsupported(f"no output {present_name} for the input {past.name}")
    if past.element_type not in _FLOATS or len(past.shape) != 4:
        raise unsupported(f"{past.name} of type {past.element_type} and shape {past.shape}")
    heads, dimension = past.shape[1] or head_count, past.shape[3] or head_dimension
    if not heads or not dimension:
        raise unsupported(
            f"{past.name} does not say its heads and their size, nor does config.json"
        )
    return CacheTensor(past.name, present_name, heads, dimension, _FLOATS[past.element_type])
