"""One hash for requests that must get the same answer: SHA-256 over everything that changes it, and nothing else."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import NamedTuple

# Part of the hash: raise it when the meaning of a field changes, so that old entries are never given out again.
_SCHEME = "farthing request 3"
_KEPT_COUNT = 1024
_KEPT_LENGTH = 512
_encode = json.JSONEncoder(separators=(",", ":")).encode


class HashedRequest(NamedTuple):
    """Everything of a request that its answer depends on.

    `input` is inference.v1.GenerationInput, serialised deterministically: messages or prompt, sampling, stop texts,
    format, log-probabilities; a field that is not given differs from any value. `model` is as asked, "auto" included:
    which model then answers is the answer's own matter, which is why the wishes that can change the choice (task, least
    quality, policy, where it may run) are part of the request. Not part of it: ids, conversation, priority, deadlines
    and price ceilings, which change whether there is an answer but not what it is.
    """

    input: bytes
    model: str = ""
    task: str = ""
    min_quality_ratio: float = 0.0
    policy: str = ""
    residency: frozenset[str] = frozenset()
    privacy_class: str = ""


def canonical_request_hash(request: HashedRequest) -> bytes:
    """32 bytes, equal exactly when the requests must get the same answer.

    An empty model is "auto"; the order of regions does not count. The short fields are written as one JSON array, which
    no two different requests share, and the input follows; JSON holds no NUL, so the border between them is certain.
    """
    # What is unusually long is not kept.
    is_short = not request.residency or sum(map(len, request.residency)) <= _KEPT_LENGTH
    head = (_head if is_short else _head.__wrapped__)(*request[1:])
    return hashlib.sha256(head + b"\0" + request.input).digest()


# A program's requests differ in their input: the rest is written once.
@lru_cache(maxsize=_KEPT_COUNT)
def _head(
    model: str,
    task: str,
    min_quality_ratio: float,
    policy: str,
    residency: frozenset[str],
    privacy_class: str,
) -> bytes:
    fields = (
        _SCHEME,
        model or "auto",
        task,
        min_quality_ratio + 0.0,  # no -0.0, which equals 0.0 and is written otherwise
        policy,
        sorted(residency),
        privacy_class,
    )
    return _encode(fields).encode()
