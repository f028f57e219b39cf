"""Sends the demo's prompts, in turn through the OpenAI-compatible gateway and through the router's gRPC stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc

from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import explain_error
from farthing.cli.up.layout import Layout
from farthing.cli.up.records import DemoPrompt, PromptRecord, record_grpc, record_http
from farthing.clients.wishes import PRIVACY_CLASSES
from farthing.kit.errors import FarthingError, Internal, Unavailable
from farthing.kit.rpc.channel import open_channel, outgoing_metadata

_TIMEOUT_S = 120.0
_MAX_TOKENS = 256
_ROLES = {
    "system": inference_pb2.ROLE_SYSTEM,
    "user": inference_pb2.ROLE_USER,
    "assistant": inference_pb2.ROLE_ASSISTANT,
}


async def run_prompts(
    layout: Layout, key: str, prompts: list[DemoPrompt]
) -> AsyncIterator[tuple[DemoPrompt, PromptRecord | FarthingError]]:
    """Every prompt with its record, or with the error that kept it from being answered.

    The answer cache stays out of it: a second run computes like the first.
    """
    address = layout.address("router")
    channel = open_channel(address)
    stub = router_pb2_grpc.RouterServiceStub(channel)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)
    ) as session:
        try:
            for index, prompt in enumerate(prompts):
                try:
                    if index % 2 == 0:
                        url = f"http://{layout.address('gateway')}/v1/chat/completions"
                        yield prompt, await _ask_http(session, url, key, prompt)
                    else:
                        yield prompt, await _ask_grpc(stub, address, key, prompt)
                except FarthingError as error:
                    yield prompt, error
        finally:
            await channel.close()


async def _ask_http(
    session: aiohttp.ClientSession, url: str, key: str, prompt: DemoPrompt
) -> PromptRecord:
    request: dict[str, Any] = {
        "model": "auto",
        "messages": [dict(message) for message in prompt.messages],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
        "farthing": {**prompt.wishes, "task": prompt.task, "cache": "off"},
    }
    try:
        async with session.post(
            url, json=request, headers={"Authorization": f"Bearer {key}"}
        ) as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                raise Unavailable(
                    f"HTTP {response.status}: {body.get('error', {}).get('message', body)}",
                    reason="HTTP_ERROR",
                )
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise Unavailable(
            f"{url}: {error or 'no answer in time'}", reason="HTTP_ERROR"
        ) from error
    return record_http(prompt, body)


async def _ask_grpc(
    stub: router_pb2_grpc.RouterServiceAsyncStub, address: str, key: str, prompt: DemoPrompt
) -> PromptRecord:
    request = router_pb2.GenerateRequest(
        input=inference_pb2.GenerationInput(
            messages=[
                inference_pb2.Message(
                    role=_ROLES[message["role"]],
                    content=[inference_pb2.ContentPart(text=message["content"])],
                )
                for message in prompt.messages
            ],
            max_tokens=_MAX_TOKENS,
            sampling=inference_pb2.SamplingParams(temperature=0),
        ),
        constraints=router_pb2.Constraints(
            task=prompt.task,
            cache_mode=router_pb2.CACHE_MODE_OFF,
            policy=prompt.wishes.get("policy", ""),
            privacy_class=PRIVACY_CLASSES.get(prompt.wishes.get("privacy", "")),
            min_quality_ratio=prompt.wishes.get("min_quality", 0.0),
        ),
    )
    texts: list[str] = []
    decision: router_pb2.Decision | None = None
    try:
        async for response in stub.Generate(
            request, timeout=_TIMEOUT_S, metadata=outgoing_metadata(None, key)
        ):
            kind = response.WhichOneof("event")
            if kind == "decision":
                decision = response.decision
            elif kind == "delta":
                texts.append(response.delta.text)
            elif kind == "result" and decision is not None:
                return record_grpc(prompt, "".join(texts), decision, response.result)
    except grpc.aio.AioRpcError as error:
        raise explain_error(error, address) from None
    raise Internal("the router ended the stream without a result", reason="NO_RESULT")
