"""One hash for requests that must get the same answer: SHA-256 over everything that changes it, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

# Part of the hash: raise it when the meaning of a field changes, so that old entries are never given out again.
_SCHEME = "farthing request 2"
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class HashedRequest:
    """Everything of a request that its answer depends on. None means "not given", which differs from any value.

    `model` is as asked, "auto" included: which model then answers is the answer's own matter, which is why the wishes
    that can change the choice (task, least quality, policy, where it may run) are part of the request. Not part of it:
    ids, conversation, priority, deadlines and price ceilings: an answer that is there already keeps to all of those.
    """

    model: str
    messages: tuple[tuple[str, str], ...] = ()  # (role, text)
    prompt: str = ""
    max_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: tuple[str, ...] = ()
    response_format: str = ""
    json_schema: str = ""
    logprobs: bool = False
    top_logprobs: int = 0
    task: str = ""
    min_quality_ratio: float = 0.0
    policy: str = ""
    residency: tuple[str, ...] = ()
    privacy_class: str = ""


def canonical_request_hash(request: HashedRequest) -> bytes:
    """32 bytes, equal exactly when the requests must get the same answer.

    An empty model is "auto"; the order of stop texts and of regions does not count. The fields are written as one JSON
    array, which no two different requests share; numbers as floats, so that 1 and 1.0 are the same wish.
    """
    parts = (
        _SCHEME,
        request.model or "auto",
        request.messages,
        request.prompt,
        request.max_tokens,
        _number(request.temperature),
        _number(request.top_p),
        request.top_k,
        _number(request.min_p),
        request.seed,
        _number(request.frequency_penalty),
        _number(request.presence_penalty),
        sorted(set(request.stop)),
        request.response_format,
        request.json_schema,
        request.logprobs,
        request.top_logprobs,
        request.task,
        _number(request.min_quality_ratio),
        request.policy,
        sorted(set(request.residency)),
        request.privacy_class,
    )
    return hashlib.sha256(_encode(parts).encode()).digest()


def _number(value: float | None) -> float | None:
    # -0.0 and 0.0 are one wish, and two texts.
    return None if value is None else float(value) + 0.0
