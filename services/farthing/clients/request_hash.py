"""One hash for requests that must get the same answer: SHA-256 over everything that changes it, and nothing else."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

# Part of the hash: raise it when the meaning of a field changes, so that old entries are never given out again.
_SCHEME = b"farthing request 1"


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

    An empty model is "auto"; the order of stop texts and of regions does not count. Every field is written with its
    length, so no two different requests write the same bytes.
    """
    digest = hashlib.sha256(_SCHEME)
    for part in _parts(request):
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()


def _parts(request: HashedRequest) -> Iterable[bytes]:
    yield _text(request.model or "auto")
    yield str(len(request.messages)).encode()
    for role, text in request.messages:
        yield _text(role)
        yield _text(text)
    yield _text(request.prompt)
    yield _number(request.max_tokens)
    for value in (
        request.temperature,
        request.top_p,
        request.top_k,
        request.min_p,
        request.seed,
        request.frequency_penalty,
        request.presence_penalty,
    ):
        yield _number(value)
    yield from _set(request.stop)
    yield _text(request.response_format)
    yield _text(request.json_schema)
    yield _number(int(request.logprobs))
    yield _number(request.top_logprobs)
    yield _text(request.task)
    yield _number(request.min_quality_ratio)
    yield _text(request.policy)
    yield from _set(request.residency)
    yield _text(request.privacy_class)


def _text(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


def _number(value: float | None) -> bytes:
    # Integers are written as such: a seed of 2**53 + 1 has no float of its own. 0 and 0.0 and -0.0 are one value.
    if value is None:
        return b""
    if isinstance(value, int) or value.is_integer():
        return b"i%d" % int(value)
    return b"f" + struct.pack("<d", value)


def _set(values: tuple[str, ...]) -> Iterable[bytes]:
    unique = sorted(set(values))
    yield str(len(unique)).encode()
    for value in unique:
        yield _text(value)
