"""Checks a request's fields against the ranges of inference.proto."""

from __future__ import annotations

import math
from collections.abc import Sequence

from farthing.inference.core.request import EngineRequest, Sampling
from farthing.kit.errors import InvalidArgument

MAX_STOP_COUNT = 8
MAX_TEXT_COUNT = 256
MAX_CANDIDATE_COUNT = 8
MAX_STOP_BYTES = 256
MAX_TOP_LOGPROBS = 20
MAX_SCHEMA_BYTES = 65_536
MAX_PENALTY = 2.0
MAX_TEMPERATURE = 2.0
MAX_BIAS = 100.0
MAX_BIAS_COUNT = 300


def check_texts(texts: Sequence[str]) -> None:
    """Raises InvalidArgument for texts that no vectors can be made of."""
    if not 1 <= len(texts) <= MAX_TEXT_COUNT:
        raise _bad("texts", f"must have 1..{MAX_TEXT_COUNT} texts")
    for index, text in enumerate(texts):
        if not text:
            raise _bad(f"texts[{index}]", "must not be empty")


def check_request(request: EngineRequest) -> None:
    """Raises InvalidArgument naming the first field that is out of range."""
    if bool(request.messages) == bool(request.prompt):
        raise _bad("input.prompt", "exactly one of messages and prompt must be set")
    if request.max_tokens < 0:
        raise _bad("input.max_tokens", "must be 1 or more, or 0 for the default")
    if request.compute_limit_us < 0:
        raise _bad("compute_limit_us", "must be positive, or 0 for no limit")
    if not 0 <= request.candidate_count <= MAX_CANDIDATE_COUNT:
        raise _bad("input.candidate_count", f"must be 1..{MAX_CANDIDATE_COUNT}, or 0 for 1")
    _check_sampling(request.sampling)
    if len(request.stop) > MAX_STOP_COUNT:
        raise _bad("input.stop", f"must have at most {MAX_STOP_COUNT} texts")
    for index, stop in enumerate(request.stop):
        if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
            raise _bad(f"input.stop[{index}]", f"must have 1..{MAX_STOP_BYTES} bytes")
    if not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
        raise _bad("input.top_logprobs", f"must be 0..{MAX_TOP_LOGPROBS}")
    if request.top_logprobs and not request.logprobs:
        raise _bad("input.top_logprobs", "needs logprobs set to true")
    if len(request.json_schema.encode()) > MAX_SCHEMA_BYTES:
        raise _bad(
            "input.response_format.json_schema", f"must have at most {MAX_SCHEMA_BYTES} bytes"
        )


def _check_sampling(sampling: Sampling) -> None:
    field = "input.sampling."
    if not 0 <= sampling.temperature <= MAX_TEMPERATURE:
        raise _bad(field + "temperature", "must be 0..2")
    if not 0 < sampling.top_p <= 1:
        raise _bad(field + "top_p", "must be above 0 and at most 1")
    if sampling.top_k < 0:
        raise _bad(field + "top_k", "must be 1 or more, or 0 to keep all")
    if not 0 <= sampling.min_p <= 1:
        raise _bad(field + "min_p", "must be 0..1")
    for name in ("frequency_penalty", "presence_penalty"):
        value: float = getattr(sampling, name)
        if math.isnan(value) or abs(value) > MAX_PENALTY:
            raise _bad(field + name, "must be -2..2")
    if len(sampling.logit_bias) > MAX_BIAS_COUNT:
        raise _bad(field + "logit_bias", f"must have at most {MAX_BIAS_COUNT} tokens")
    for token, bias in sampling.logit_bias.items():
        if token < 0 or math.isnan(bias) or abs(bias) > MAX_BIAS:
            raise _bad(f"{field}logit_bias[{token}]", "must be of a token, and -100..100")


def _bad(field: str, rule: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {rule}.", field=field, reason="FIELD_INVALID")
