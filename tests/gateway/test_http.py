"""The gateway below OpenAI's SDK: refusals, health, metrics, retries, draining."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import KEY, World, publish

from farthing.kit.testing import eventually, free_port

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


async def post(
    world: World,
    body: object,
    *,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            world.url + path,
            data=io.BytesIO(data),  # aiohttp warns of large plain bytes
            headers={"authorization": f"Bearer {KEY}", **(headers or {})},
        ) as response,
    ):
        return response.status, json.loads(await response.text())


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
                ]
            },
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
        ),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
        ),
        ({"surprise": 1}, "surprise"),
        ({"farthing": {"surprise": 1}}, "farthing.surprise"),
        ({"farthing": {"max_cost_usd": -1}}, "farthing.max_cost_usd"),
        ({"farthing": {"max_cost_usd": "1e999999"}}, "farthing.max_cost_usd"),
        ({"farthing": {"max_cost_usd": 1e-12}}, "farthing.max_cost_usd"),
        ({"farthing": {"min_quality": 2}}, "farthing.min_quality"),
        ({"farthing": {"privacy": "secret"}}, "farthing.privacy"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "body"),
    ],
)
async def test_a_bad_parameter_is_refused_by_name_before_any_router_hears_of_it(
    world: World, change: dict[str, Any], param: str
) -> None:
    status, body = await post(world, {**CHAT, **change})
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param
    assert world.router.requests == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 6}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
async def test_the_older_form_refuses_by_name_too(
    world: World, change: dict[str, Any], param: str
) -> None:
    body = {"model": "auto", "prompt": "Hi", **change}
    status, reply = await post(world, body, path="/v1/completions")
    assert (status, reply["error"]["param"]) == (400, param)


async def test_harmless_values_of_refused_parameters_are_accepted(world: World) -> None:
    harmless = {
        "n": 1,
        "tools": None,
        "tool_choice": "none",
        "logit_bias": {},
        "modalities": ["text"],
        "temperature": None,
        "response_format": {"type": "text"},
    }
    status, _ = await post(world, {**CHAT, **harmless})
    assert status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_not_a_json_object_is_refused(world: World, body: bytes) -> None:
    status, reply = await post(world, body)
    assert status == 400
    assert reply["error"]["code"] == "body_not_json"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-farthing-surprise", "1"),
        ("x-farthing-min-quality", "high"),
        ("x-farthing-max-latency-ms", "1.5"),
        ("x-farthing-cache", "sometimes"),
        ("idempotency-key", "x" * 65),
    ],
)
async def test_a_bad_header_is_refused_by_name(world: World, header: str, value: str) -> None:
    status, reply = await post(world, CHAT, headers={header: value})
    assert (status, reply["error"]["param"]) == (400, header)


async def test_wishes_may_come_in_headers(world: World) -> None:
    headers = {
        "x-farthing-max-cost-usd": "0.000001",
        "x-farthing-min-quality": "0.25",
        "X-Farthing-Residency": "eu, us",
        "x-farthing-privacy": "edge_only",
        "x-farthing-max-latency-ms": "250",
        "x-farthing-cache": "read_write",
    }
    status, _ = await post(world, CHAT, headers=headers)
    assert status == 200
    wishes = world.router.requests[0].constraints
    assert wishes.max_cost_nano_usd == 1000
    assert wishes.min_quality_ratio == 0.25
    assert list(wishes.residency) == ["eu", "us"]
    assert (wishes.privacy_class, wishes.max_total_ms, wishes.cache_mode) == (1, 250, 3)


@pytest.mark.parametrize("value", ["", "Bearer", "Basic abc", "Bearer \u00e9"])
async def test_without_a_key_nothing_is_read(world: World, value: str) -> None:
    status, reply = await post(world, b"{", headers={"authorization": value})
    assert status == 401
    assert reply["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)],
)
async def test_unknown_paths_answer_in_openais_form(
    world: World, method: str, path: str, status: int
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, world.url + path) as response,
    ):
        assert response.status == status
        assert path in (await response.json())["error"]["message"]


async def test_too_large_a_body_is_refused(world: World) -> None:
    status, reply = await post(world, b" " * (8 * 1024 * 1024 + 1))
    assert status == 413
    assert "FARTHING_GATEWAY_MAX_BODY_BYTES" in reply["error"]["message"]


async def test_health_and_metrics_answer_without_a_key(world: World) -> None:
    await post(world, CHAT)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{world.url}/healthz") as response:
            assert response.status == 200
        async with session.get(f"{world.url}/metrics") as response:
            text = await response.text()
        assert (
            'http_server_request_duration_seconds_count{route="/v1/chat/completions",status="200"} 1.0'
            in text
        )
        publish(world.watch)
        async with session.get(f"{world.url}/healthz") as response:
            assert response.status == 503


async def test_a_router_that_cannot_be_reached_is_replaced_by_another(world: World) -> None:
    (address,) = world.watch.instances
    publish(world.watch, f"127.0.0.1:{free_port()}", address)
    for stream in (False, True):
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"{world.url}/v1/chat/completions",
                json={**CHAT, "stream": stream},
                headers={"authorization": f"Bearer {KEY}"},
            ) as response,
        ):
            assert response.status == 200
            assert "four" in await response.text()


async def test_with_no_router_the_answer_is_503_with_a_time_to_retry(world: World) -> None:
    publish(world.watch)
    status, reply = await post(world, CHAT)
    assert (status, reply["error"]["code"]) == (503, "router_unknown")


async def test_each_request_is_a_span_in_the_callers_trace(world: World) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await post(world, CHAT, headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    records = await eventually(lambda: world.recorder.drain(10))
    assert records[0].context.trace_id == trace_id
    assert records[0].parent_span_id == "00f067aa0ba902b7"
    assert records[0].name == "POST /v1/chat/completions"
    assert records[0].attributes["http.response.status_code"] == 200
    assert world.router.traces == [trace_id]


async def test_shutting_down_lets_an_open_stream_end(world: World) -> None:
    world.router.gate.clear()
    async with aiohttp.ClientSession() as session:
        response = await session.post(
            f"{world.url}/v1/chat/completions",
            json={**CHAT, "stream": True},
            headers={"authorization": f"Bearer {KEY}"},
        )
        await response.content.readany()
        closing = asyncio.create_task(world.runner.cleanup())

        async def refuses() -> bool:
            try:
                async with aiohttp.ClientSession() as other:
                    await other.get(f"{world.url}/healthz")
            except aiohttp.ClientConnectionError:
                return True
            return False

        await eventually(refuses)
        assert not closing.done()
        world.router.gate.set()
        rest = (await response.read()).decode()
        assert "data: [DONE]" in rest
    await closing
