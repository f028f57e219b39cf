"""A request that cannot be answered is refused by the name of its field, with the fix; a good one is read right."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from tests.router.conftest import ask

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit.errors import InvalidArgument
from farthing.router.core.request import DEFAULT_MAX_TOKENS, Limits, Privacy
from farthing.router.validation import check_request

Change = Callable[[router_pb2.GenerateRequest], object]
SCHEMA = inference_pb2.ResponseFormat(
    kind=inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA, json_schema="{}"
)
NAN, INF = math.nan, math.inf


def sampling(**values: float) -> Change:
    return lambda request: request.input.sampling.MergeFrom(
        inference_pb2.SamplingParams(**values)  # type: ignore[arg-type]
    )


def wish(**values: float) -> Change:
    return lambda request: request.constraints.MergeFrom(
        router_pb2.Constraints(**values)  # type: ignore[arg-type]
    )


def given(**values: object) -> Change:
    return lambda request: request.input.MergeFrom(
        inference_pb2.GenerationInput(**values)  # type: ignore[arg-type]
    )


def set_text(name: str, value: str) -> Change:
    def change(request: router_pb2.GenerateRequest) -> None:
        holder, _, field = name.rpartition(".")
        setattr(getattr(request, holder) if holder else request, field, value)

    return change


def set_role(value: int) -> Change:
    return lambda request: setattr(request.input.messages[0], "role", value)


BAD: list[tuple[str, Change]] = [
    *(
        (name, set_text(name, value))
        for name in (
            "request_id",
            "conversation_id",
            "model",
            "constraints.task",
            "constraints.policy",
        )
        for value in ("x" * 300, "line\nbreak", "nul\0")
    ),
    *(
        (f"input.sampling.{name}", sampling(**{name: value}))
        for name, values in {
            "temperature": (-0.1, 2.1, NAN, INF, -INF),
            "top_p": (0.0, -1.0, 1.1, NAN, INF),
            "top_k": (-1, 1_000_001),
            "min_p": (-0.1, 1.1, NAN, INF),
            "frequency_penalty": (-2.1, 2.1, NAN, INF, -INF),
            "presence_penalty": (-2.1, 2.1, NAN, INF, -INF),
        }.items()
        for value in values
    ),
    *(
        (f"constraints.{name}", wish(**{name: value}))
        for name, values in {
            "max_cost_nano_usd": (-1,),
            "max_first_token_ms": (-1,),
            "max_total_ms": (-1,),
            "min_quality_ratio": (-0.1, 1.1, NAN, INF, -INF),
            "privacy_class": (99,),
            "priority": (99,),
            "cache_mode": (99,),
        }.items()
        for value in values
    ),
    ("input.messages", lambda request: request.ClearField("input")),
    ("input.messages", given(prompt="and a prompt")),
    (
        "input.messages",
        lambda request: request.input.messages.extend([request.input.messages[0]] * 1024),
    ),
    ("input.messages[0].role", set_role(0)),
    ("input.messages[0].role", set_role(99)),
    (
        "input.messages[0].content",
        lambda request: request.input.messages[0].content.add(),
    ),
    ("input.max_tokens", given(max_tokens=-1)),
    ("input.stop", given(stop=["x"] * 9)),
    ("input.stop[1]", given(stop=["x", ""])),
    ("input.stop[0]", given(stop=["€" * 86])),
    ("input.top_logprobs", given(logprobs=True, top_logprobs=21)),
    ("input.top_logprobs", given(logprobs=True, top_logprobs=-1)),
    ("input.top_logprobs", given(top_logprobs=1)),
    (
        "input.response_format.json_schema",
        given(
            response_format=inference_pb2.ResponseFormat(
                kind=inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA
            )
        ),
    ),
    (
        "input.response_format.json_schema",
        given(response_format=inference_pb2.ResponseFormat(json_schema="{}")),
    ),
    (
        "input.response_format.kind",
        given(response_format=inference_pb2.ResponseFormat(kind=99)),  # type: ignore[arg-type]
    ),
    ("constraints.residency", lambda request: request.constraints.residency.append("")),
    (
        "constraints.residency",
        lambda request: request.constraints.residency.extend(["eu"] * 65),
    ),
]


@pytest.mark.parametrize(
    ("field", "change"), BAD, ids=[f"{n}-{field}" for n, (field, _) in enumerate(BAD)]
)
def test_a_mistake_is_refused_by_its_field(field: str, change: Change) -> None:
    request = ask()
    check_request(request)
    change(request)
    with pytest.raises(InvalidArgument) as caught:
        check_request(request)
    assert caught.value.field == field
    assert field in caught.value.message
    assert len(caught.value.message) < 300


def test_limits_themselves_are_still_allowed() -> None:
    request = ask(stop=["€" * 85, *"1234567"], logprobs=True, top_logprobs=20)
    for name, least, greatest in (
        ("temperature", 0.0, 2.0),
        ("top_p", 0.001, 1.0),
        ("top_k", 0, 1_000_000),
        ("min_p", 0.0, 1.0),
        ("frequency_penalty", -2.0, 2.0),
        ("presence_penalty", -2.0, 2.0),
    ):
        for value in (least, greatest):
            sampling(**{name: value})(request)
            check_request(request)
    for ratio in (0.0, 1.0):
        wish(min_quality_ratio=ratio)(request)
        check_request(request)


def test_what_is_left_out_takes_its_default() -> None:
    request = router_pb2.GenerateRequest(input=inference_pb2.GenerationInput(prompt="häh"))
    checked = check_request(request)
    features = checked.features
    assert features.max_tokens == DEFAULT_MAX_TOKENS
    assert features.input_bytes == 4
    assert features.message_count == 0
    assert features.model == features.task == checked.policy == ""
    assert features.needs == frozenset()
    assert features.limits == Limits()
    assert checked.request_id.startswith("req_")
    assert check_request(request).request_id != checked.request_id


def test_everything_said_is_read() -> None:
    request = ask(
        "what?",
        request_id="r-1",
        conversation_id="c-1",
        model="large",
        max_tokens=7,
        logprobs=True,
        response_format=SCHEMA,
        task="math/hard",
        policy="greenest",
        priority=common_pb2.PRIORITY_BATCH,
        max_cost_nano_usd=1,
        max_first_token_ms=2,
        max_total_ms=3,
        min_quality_ratio=0.5,
        residency=["eu", "us", "eu"],
        privacy_class=common_pb2.PRIVACY_CLASS_EDGE_ONLY,
    )
    checked = check_request(request)
    assert (checked.request_id, checked.conversation_id) == ("r-1", "c-1")
    assert (checked.policy, checked.priority) == ("greenest", common_pb2.PRIORITY_BATCH)
    features = checked.features
    assert (features.model, features.task, features.max_tokens) == ("large", "math/hard", 7)
    assert features.needs == {"chat", "json_schema", "logprobs"}
    assert features.limits == Limits(1, 2, 3, 0.5, frozenset({"eu", "us"}), Privacy.EDGE_ONLY)


@pytest.mark.parametrize("model", ["", "auto"])
def test_any_model_may_be_asked_for_in_two_ways(model: str) -> None:
    assert check_request(ask(model=model)).features.model == ""


@pytest.mark.parametrize(
    ("change", "mode", "reads", "writes"),
    [
        (sampling(), router_pb2.CACHE_MODE_UNSPECIFIED, True, True),
        (sampling(temperature=0.0), router_pb2.CACHE_MODE_UNSPECIFIED, True, True),
        (sampling(temperature=1.0), router_pb2.CACHE_MODE_UNSPECIFIED, False, False),
        (sampling(temperature=1.0, seed=0), router_pb2.CACHE_MODE_UNSPECIFIED, True, True),
        (sampling(), router_pb2.CACHE_MODE_OFF, False, False),
        (sampling(temperature=1.0), router_pb2.CACHE_MODE_READ, True, False),
        (sampling(temperature=1.0), router_pb2.CACHE_MODE_READ_WRITE, True, True),
    ],
)
def test_the_cache_is_for_answers_that_would_come_out_the_same_or_on_request(
    change: Change, mode: router_pb2.CacheMode, reads: bool, writes: bool
) -> None:
    request = ask(cache_mode=mode)
    change(request)
    checked = check_request(request)
    assert (checked.reads_cache, checked.writes_cache) == (reads, writes)


def test_a_cache_key_tells_apart_what_may_be_answered_differently() -> None:
    plain = ask()
    changes: list[Change] = [
        lambda request: None,
        set_text("model", "large"),
        set_text("constraints.task", "math"),
        given(max_tokens=3),
        given(stop=["x"]),
        given(logprobs=True),
        given(response_format=SCHEMA),
        set_role(inference_pb2.ROLE_SYSTEM),
        sampling(temperature=0.0),
        sampling(seed=0),
        sampling(seed=1),
        sampling(top_p=0.5),
        sampling(top_k=1),
        wish(min_quality_ratio=0.5),
        wish(privacy_class=common_pb2.PRIVACY_CLASS_EDGE_ONLY),
        lambda request: request.constraints.residency.append("eu"),
        lambda request: request.input.messages.add(role=inference_pb2.ROLE_USER),
    ]
    keys = []
    for change in changes:
        request = router_pb2.GenerateRequest()
        request.CopyFrom(plain)
        change(request)
        keys.append(check_request(request).hash_for("balanced"))
    assert len(set(keys)) == len(keys)
    assert check_request(plain).hash_for("balanced") == keys[0]
    assert check_request(plain).hash_for("greenest") not in keys
