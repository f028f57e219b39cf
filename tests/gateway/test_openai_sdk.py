"""The gateway as OpenAI's own SDK sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.gateway.conftest import KEY, WORDS, World

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2
from farthing.kit import errors
from farthing.kit.testing import eventually

TEXT = "".join(WORDS)
QUESTION: list[Any] = [{"role": "user", "content": "What is two plus two?"}]


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{world.url}/v1", api_key=KEY, max_retries=0
    ) as client:
        yield client


async def test_a_chat_answer_carries_text_usage_and_the_bill(
    world: World, client: openai.AsyncOpenAI
) -> None:
    answer = await client.chat.completions.create(model="auto", messages=QUESTION)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "edge-small"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert answer.model_extra is not None
    bill = answer.model_extra["farthing"]
    assert (
        bill["total_nano_usd"] == sum(line["nano_usd"] for line in bill["cost_lines"]) == 1234
    )
    assert [line["kind"] for line in bill["cost_lines"]] == ["compute", "egress"]
    assert (bill["tier"], bill["region"]) == ("edge", "edge-site")
    assert bill["decision"]["rejected"][0]["estimated_nano_usd"] == 9000
    assert answer._request_id == bill["request_id"]
    assert bill["trace_id"] == world.router.traces[0]


async def test_headers_tell_the_cost_without_reading_the_body(
    client: openai.AsyncOpenAI,
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="auto",
        messages=QUESTION,
        extra_headers={
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        },
    )
    assert raw.headers["x-farthing-cost-nano-usd"] == "1234"
    assert raw.headers["x-farthing-model"] == "edge-small"
    assert raw.headers["x-farthing-region"] == "edge-site"
    assert "4bf92f3577b34da6a3ce929d0e0e4736" in raw.headers["traceparent"]


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_streamed_chat_gives_the_same_answer(
    client: openai.AsyncOpenAI, include_usage: bool
) -> None:
    stream = await client.chat.completions.create(
        model="auto",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": include_usage},
    )
    chunks = [chunk async for chunk in stream]
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert [end for end in ends if end] == ["stop"]
    usages = [chunk.usage for chunk in chunks if chunk.usage]
    assert [usage.total_tokens for usage in usages] == ([18] if include_usage else [])
    assert (chunks[-1].choices == []) == include_usage
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["farthing"]["total_nano_usd"] == 1234
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_synchronous_client_works_as_well(world_in_thread: str) -> None:
    with openai.OpenAI(base_url=f"{world_in_thread}/v1", api_key=KEY) as client:
        answer = client.chat.completions.create(model="auto", messages=QUESTION)
        assert answer.choices[0].message.content == TEXT
        stream = client.chat.completions.create(model="auto", messages=QUESTION, stream=True)
        texts = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(texts) == TEXT
        assert [model.id for model in client.models.list()] == ["auto", "edge-small"]


async def test_the_older_completions_work_streamed_and_whole(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.completions.create(model="auto", prompt="2+2=", logprobs=1)
    assert answer.choices[0].text == TEXT
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == list(WORDS)
    assert answer.choices[0].logprobs.text_offset == [0, 3, 8, 12, 15, 20]
    stream = await client.completions.create(model="auto", prompt="2+2=", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == TEXT


async def test_log_probabilities_reach_the_client(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 1}
    answer = await client.chat.completions.create(model="auto", messages=QUESTION, **asked)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == list(WORDS)
    assert logprobs.content[0].top_logprobs[0].logprob == -0.5
    stream = await client.chat.completions.create(
        model="auto", messages=QUESTION, stream=True, **asked
    )
    tokens = [
        entry.token
        async for chunk in stream
        for choice in chunk.choices
        if choice.logprobs is not None
        for entry in choice.logprobs.content or []
    ]
    assert tokens == list(WORDS)


async def test_parameters_and_wishes_reach_the_router(
    world: World, client: openai.AsyncOpenAI
) -> None:
    await client.chat.completions.create(
        model="edge-small",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "Hello", "refusal": None},
            {"role": "user", "content": "Again"},
        ],
        max_completion_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=2**53 + 1,
        stop=["\n", "END"],
        frequency_penalty=0.5,
        presence_penalty=-0.5,
        service_tier="flex",
        prompt_cache_key="conversation 7",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}},
        },
        user="someone",
        metadata={"a": "b"},
        store=False,
        extra_headers={"x-farthing-task": "math", "x-farthing-policy": "fastest"},
        extra_body={
            "top_k": 5,
            "farthing": {
                "policy": "cheapest",
                "max_cost_usd": 0.000005,
                "min_quality": 0.5,
                "residency": ["eu", "us"],
                "privacy": "region",
                "max_latency_ms": 900,
                "cache": "off",
            },
        },
    )
    (request,) = world.router.requests
    assert request.model == "edge-small"
    assert [message.role for message in request.input.messages] == [1, 2, 3, 2]
    assert request.input.messages[1].content[0].text == "Hi"
    assert request.input.max_tokens == 7
    sampling = request.input.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0, 0.5, 2**53 + 1)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.5, -0.5)
    assert (sampling.top_k, sampling.HasField("min_p")) == (5, False)
    assert list(request.input.stop) == ["\n", "END"]
    shape = request.input.response_format
    assert shape.kind == inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA
    assert shape.json_schema == '{"type":"object"}'
    wishes = request.constraints
    assert (wishes.task, wishes.policy) == ("math", "cheapest")
    assert wishes.max_cost_nano_usd == 5000
    assert wishes.min_quality_ratio == 0.5
    assert list(wishes.residency) == ["eu", "us"]
    assert wishes.privacy_class == common_pb2.PRIVACY_CLASS_REGION
    assert wishes.max_total_ms == 900
    assert wishes.cache_mode == router_pb2.CACHE_MODE_OFF
    assert wishes.priority == common_pb2.PRIORITY_BATCH
    assert request.conversation_id == "conversation 7"


async def test_an_idempotency_key_becomes_the_request_id(
    world: World, client: openai.AsyncOpenAI
) -> None:
    await client.chat.completions.create(
        model="auto", messages=QUESTION, extra_headers={"idempotency-key": "order-17"}
    )
    await client.chat.completions.create(model="auto", messages=QUESTION)
    given, made = world.router.requests
    assert (given.request_id, given.single_use) == ("order-17", False)
    assert made.request_id and made.single_use


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (
            errors.ResourceExhausted("spent", reason="BUDGET_EXHAUSTED"),
            openai.APIStatusError,
            "insufficient_quota",
        ),
        (
            errors.ResourceExhausted("too fast", reason="REQUEST_RATE", retry_after_ms=1500),
            openai.RateLimitError,
            "rate_limit_exceeded",
        ),
        (
            errors.NotFound("no such model", reason="MODEL_UNKNOWN"),
            openai.NotFoundError,
            "model_not_found",
        ),
        (
            errors.FailedPrecondition("nothing qualified", reason="NO_CANDIDATE"),
            openai.BadRequestError,
            "no_candidate",
        ),
        (
            errors.Unavailable("quota is away", reason="QUOTA_UNREACHABLE"),
            openai.InternalServerError,
            "quota_unreachable",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_router_errors_come_in_openais_form_streamed_or_not(
    world: World,
    client: openai.AsyncOpenAI,
    error: errors.FarthingError,
    expected: type[openai.APIStatusError],
    code: str,
    stream: bool,
) -> None:
    world.router.error = error
    with pytest.raises(expected) as caught:
        await client.chat.completions.create(model="auto", messages=QUESTION, stream=stream)
    assert caught.value.code == code
    assert error.message in str(caught.value)
    if code == "insufficient_quota":
        assert caught.value.status_code == 402
    if code == "rate_limit_exceeded":
        assert caught.value.response.headers["retry-after"] == "2"
        assert caught.value.response.headers["retry-after-ms"] == "1500"


async def test_the_routers_field_names_become_openais(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.router.error = errors.InvalidArgument("too hot", field="input.sampling.temperature")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="auto", messages=QUESTION)
    assert caught.value.param == "temperature"


async def test_a_wrong_key_is_an_authentication_error(world: World) -> None:
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="fk-wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(model="auto", messages=QUESTION)
    assert caught.value.code == "invalid_api_key"


async def test_an_error_in_mid_stream_is_raised_by_the_client(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.router.error_after_words = errors.Unavailable("the engine is gone", reason="LOST")
    stream = await client.chat.completions.create(model="auto", messages=QUESTION, stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="the engine is gone"):
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content or "")
    assert "".join(texts) == TEXT


async def test_an_engine_failure_after_the_first_token_is_never_taken_for_an_answer(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.router.finish_reason = common_pb2.FINISH_REASON_ERROR
    with pytest.raises(openai.InternalServerError) as whole:
        await client.chat.completions.create(model="auto", messages=QUESTION)
    assert whole.value.status_code == 502
    assert whole.value.response.json()["farthing"]["total_nano_usd"] == 1234
    stream = await client.chat.completions.create(model="auto", messages=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match="engine failed"):
        async for _ in stream:
            pass


async def test_an_answer_cut_by_its_budget_says_so(
    world: World, client: openai.AsyncOpenAI
) -> None:
    world.router.finish_reason = common_pb2.FINISH_REASON_BUDGET
    answer = await client.chat.completions.create(model="auto", messages=QUESTION)
    assert answer.choices[0].finish_reason == "length"
    assert answer.model_extra is not None
    assert answer.model_extra["farthing"]["finish_reason"] == "budget"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_cancels_the_work_behind_it(
    world: World, client: openai.AsyncOpenAI, stream: bool
) -> None:
    world.router.gate.clear()
    if stream:
        opened = await client.chat.completions.create(
            model="auto", messages=QUESTION, stream=True
        )
        await anext(aiter(opened))
        await eventually(lambda: world.router.open_count == 1)
        await opened.close()
    else:
        task = asyncio.create_task(
            client.chat.completions.create(model="auto", messages=QUESTION)
        )
        await eventually(lambda: world.router.open_count == 1)
        task.cancel()
    await eventually(lambda: world.router.cancelled_count == 1)
    assert world.router.open_count == 0


async def test_models_are_listed_and_shown(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["auto", "edge-small"]
    assert (await client.models.retrieve("edge-small")).owned_by == "farthing"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-9")
