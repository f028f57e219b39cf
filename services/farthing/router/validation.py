"""Checks a request and takes from it what routing needs. Every refusal names the field and the fix."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.clients.request_hash import HashedRequest, canonical_request_hash
from farthing.kit.errors import InvalidArgument
from farthing.kit.ids import new_id
from farthing.router.core.request import DEFAULT_MAX_TOKENS, Limits, Privacy, RequestFeatures

_MAX_STOPS = 8
_MAX_STOP_BYTES = 256
_MAX_TAG_LENGTH = 64
_MAX_MODEL_LENGTH = 256
_MAX_MESSAGES = 1024
_MAX_REGIONS = 64
_KEPT_COUNT = 1024
_KEPT_BYTES = 512
_ROLES = frozenset(inference_pb2.Role.values()) - {inference_pb2.ROLE_UNSPECIFIED}
_FORMAT_KINDS = frozenset(inference_pb2.ResponseFormatKind.values())
_ANY_MODEL = ("", "auto")
_PRIVACY = {
    common_pb2.PRIVACY_CLASS_UNSPECIFIED: Privacy.ANY,
    common_pb2.PRIVACY_CLASS_EDGE_ONLY: Privacy.EDGE_ONLY,
    common_pb2.PRIVACY_CLASS_REGION: Privacy.REGION,
    common_pb2.PRIVACY_CLASS_ANY: Privacy.ANY,
}
_KNOWN_WISHES = (
    ("privacy_class", frozenset(_PRIVACY)),
    ("priority", frozenset(common_pb2.Priority.values())),
    ("cache_mode", frozenset(router_pb2.CacheMode.values())),
)
# name, least, greatest; as inference.proto says
_RANGES = (
    ("temperature", 0.0, 2.0),
    ("top_p", 1e-9, 1.0),
    ("top_k", 0, 1_000_000),
    ("min_p", 0.0, 1.0),
    ("frequency_penalty", -2.0, 2.0),
    ("presence_penalty", -2.0, 2.0),
)


@dataclass(slots=True)
class CheckedRequest:
    """A request that may be answered. `reads_cache` and `writes_cache` are already decided."""

    request_id: str
    conversation_id: str
    input: inference_pb2.GenerationInput
    features: RequestFeatures
    policy: str
    priority: common_pb2.Priority
    reads_cache: bool
    writes_cache: bool
    _hashes: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    def hash_for(self, policy: str) -> bytes:
        """The cache key under the policy that applies; made once."""
        known = self._hashes.get(policy)
        if known is None:
            known = self._hashes[policy] = self._hash(policy)
        return known

    def _hash(self, policy: str) -> bytes:
        limits = self.features.limits
        return canonical_request_hash(
            HashedRequest(
                self.input.SerializeToString(deterministic=True),
                self.features.model,
                self.features.task,
                limits.min_quality_ratio,
                policy,
                limits.residency,
                limits.privacy.value,
            )
        )


def check_request(request: router_pb2.GenerateRequest) -> CheckedRequest:
    """InvalidArgument on the first thing wrong."""
    given = request.input
    _check_tag("request_id", request.request_id)
    _check_tag("conversation_id", request.conversation_id)
    _check_tag("model", request.model, _MAX_MODEL_LENGTH)
    encoded = request.constraints.SerializeToString()
    # What is unusually long is not kept.
    read = _read_wishes if len(encoded) <= _KEPT_BYTES else _read_wishes.__wrapped__
    wishes = read(encoded)
    input_bytes = _check_prompt(given)
    is_repeatable = _check_sampling(given.sampling.SerializeToString())
    _check_output(given)
    return CheckedRequest(
        request_id=request.request_id or new_id("req"),
        conversation_id=request.conversation_id,
        input=given,
        features=RequestFeatures(
            input_bytes=input_bytes,
            message_count=len(given.messages),
            max_tokens=given.max_tokens or DEFAULT_MAX_TOKENS,
            model="" if request.model in _ANY_MODEL else request.model,
            task=wishes.task,
            needs=_needs(given),
            limits=wishes.limits,
        ),
        policy=wishes.policy,
        priority=wishes.priority,
        reads_cache=is_repeatable if wishes.reads_cache is None else wishes.reads_cache,
        writes_cache=is_repeatable if wishes.writes_cache is None else wishes.writes_cache,
    )


class _Wishes(NamedTuple):
    """Constraints as values. Whether the cache is used is None where the request as such decides."""

    limits: Limits
    task: str
    policy: str
    priority: common_pb2.Priority
    reads_cache: bool | None
    writes_cache: bool | None


# A program's requests have much the same wishes: each kind is checked once.
@lru_cache(maxsize=_KEPT_COUNT)
def _read_wishes(encoded: bytes) -> _Wishes:
    wishes = router_pb2.Constraints.FromString(encoded)
    _check_tag("constraints.task", wishes.task)
    _check_tag("constraints.policy", wishes.policy)
    limits, mode = _limits(wishes), wishes.cache_mode
    reads = writes = None
    if mode != router_pb2.CACHE_MODE_UNSPECIFIED:
        reads = mode in (router_pb2.CACHE_MODE_READ, router_pb2.CACHE_MODE_READ_WRITE)
        writes = mode == router_pb2.CACHE_MODE_READ_WRITE
    return _Wishes(limits, wishes.task, wishes.policy, wishes.priority, reads, writes)


def _check_tag(field: str, value: str, most: int = _MAX_TAG_LENGTH) -> None:
    if len(value) > most or not value.isprintable():
        raise InvalidArgument(
            f"{field} must be at most {most} printable characters", field=field
        )


def _check_prompt(given: inference_pb2.GenerationInput) -> int:
    if bool(given.messages) == bool(given.prompt):
        raise InvalidArgument(
            "set exactly one of input.messages and input.prompt", field="input.messages"
        )
    if len(given.messages) > _MAX_MESSAGES:
        raise InvalidArgument(
            f"input.messages has {len(given.messages)} entries; at most {_MAX_MESSAGES}",
            field="input.messages",
        )
    size = len(given.prompt.encode())
    for index, message in enumerate(given.messages):
        if message.role not in _ROLES:
            field = f"input.messages[{index}].role"
            raise InvalidArgument(f"{field} must be system, user or assistant", field=field)
        for part in message.content:
            if part.WhichOneof("part") is None:
                field = f"input.messages[{index}].content"
                raise InvalidArgument(f"{field} has an empty part; set text", field=field)
            size += len(part.text.encode())
    return size


@lru_cache(maxsize=_KEPT_COUNT)
def _check_sampling(encoded: bytes) -> bool:
    """Whether the same request gets the same answer again."""
    sampling = inference_pb2.SamplingParams.FromString(encoded)
    for name, least, greatest in _RANGES:
        value = getattr(sampling, name)
        if sampling.HasField(name) and not least <= value <= greatest:  # NaN fails as well
            field = f"input.sampling.{name}"
            raise InvalidArgument(
                f"{field} is {value:g}; it must be {'above 0' if name == 'top_p' else f'{least:g}'}"
                f"..{greatest:g}",
                field=field,
            )
    return sampling.temperature == 0 or sampling.HasField("seed")


def _check_output(given: inference_pb2.GenerationInput) -> None:
    if given.max_tokens < 0:
        raise InvalidArgument("input.max_tokens must be 1 or more", field="input.max_tokens")
    if len(given.stop) > _MAX_STOPS:
        raise InvalidArgument(
            f"input.stop takes at most {_MAX_STOPS} texts", field="input.stop"
        )
    for index, text in enumerate(given.stop):
        if not 1 <= len(text.encode()) <= _MAX_STOP_BYTES:
            field = f"input.stop[{index}]"
            raise InvalidArgument(f"{field} must be 1..{_MAX_STOP_BYTES} bytes", field=field)
    if given.candidate_count not in (0, 1):
        raise InvalidArgument(
            "input.candidate_count must be 0 or 1 here: a request is routed, priced and answered once; send it again"
            " for another answer",
            field="input.candidate_count",
        )
    if not 0 <= given.top_logprobs <= 20:
        raise InvalidArgument("input.top_logprobs must be 0..20", field="input.top_logprobs")
    if given.top_logprobs and not given.logprobs:
        raise InvalidArgument(
            "input.top_logprobs needs input.logprobs", field="input.top_logprobs"
        )
    shape = given.response_format
    if shape.kind not in _FORMAT_KINDS:
        field = "input.response_format.kind"
        raise InvalidArgument(f"{field} {shape.kind} is unknown", field=field)
    wants_schema = shape.kind == inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA
    if wants_schema != bool(shape.json_schema):
        raise InvalidArgument(
            "input.response_format.json_schema is required for kind JSON_SCHEMA, and only then",
            field="input.response_format.json_schema",
        )


def _limits(wishes: router_pb2.Constraints) -> Limits:
    for name in ("max_cost_nano_usd", "max_first_token_ms", "max_total_ms"):
        if getattr(wishes, name) < 0:
            field = f"constraints.{name}"
            raise InvalidArgument(f"{field} must be 0 (no limit) or more", field=field)
    if not 0.0 <= wishes.min_quality_ratio <= 1.0:
        field = "constraints.min_quality_ratio"
        raise InvalidArgument(f"{field} must be 0..1", field=field)
    for name, known in _KNOWN_WISHES:
        if getattr(wishes, name) not in known:
            field = f"constraints.{name}"
            raise InvalidArgument(f"{field} {getattr(wishes, name)} is unknown", field=field)
    if len(wishes.residency) > _MAX_REGIONS or not all(wishes.residency):
        field = "constraints.residency"
        raise InvalidArgument(
            f"{field} takes at most {_MAX_REGIONS} names of regions, none empty", field=field
        )
    return Limits(
        max_cost_nano_usd=wishes.max_cost_nano_usd,
        max_first_token_ms=wishes.max_first_token_ms,
        max_total_ms=wishes.max_total_ms,
        min_quality_ratio=wishes.min_quality_ratio,
        residency=frozenset(wishes.residency),
        privacy=_PRIVACY[wishes.privacy_class],
    )


def _needs(given: inference_pb2.GenerationInput) -> frozenset[str]:
    needs = set()
    if given.messages:
        needs.add("chat")
    if given.response_format.kind == inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA:
        needs.add("json_schema")
    if given.logprobs:
        needs.add("logprobs")
    return frozenset(needs)
