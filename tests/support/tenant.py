"""A tenant with a key and a budget: asks by OpenAI's SDK or by gRPC, and remembers what each was said to cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from openai import AsyncOpenAI

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import call
from farthing.cli.up.layout import Layout
from farthing.kit.ids import new_id, new_span_id, new_trace_id
from farthing.kit.money import NANO_PER_USD
from farthing.kit.rpc.channel import open_channel, outgoing_metadata
from farthing.kit.telemetry.spans import TraceContext
from farthing.kit.testing import eventually

TIMEOUT_S = 60.0
OFF = router_pb2.CACHE_MODE_OFF


@dataclass(frozen=True, slots=True)
class Told:
    """What a client learns of one answer."""

    trace_id: str
    text: str
    tier: str
    model: str
    region: str
    finish_reason: str
    total_nano_usd: int
    input_token_count: int
    output_token_count: int
    attempt_count: int


@dataclass(slots=True)
class Tenant:
    """One organisation with one key. `told` holds every answer it got."""

    layout: Layout
    organisation: str
    key: str
    admin_key: str
    client: AsyncOpenAI
    channel: grpc.aio.Channel
    """To the edge site's router."""
    cloud_channel: grpc.aio.Channel
    told: list[Told] = field(default_factory=list)

    @property
    def node(self) -> str:
        """The organisation's place in the budget tree."""
        return f"organisation:{self.organisation}"

    @property
    def stub(self) -> router_pb2_grpc.RouterServiceAsyncStub:
        """The router of the edge site."""
        return router_pb2_grpc.RouterServiceStub(self.channel)

    async def set_budget(self, nano_usd: int) -> None:
        """Give the organisation so much for ever."""
        async with self._quota() as stub:
            await call(
                stub.SetBudget,
                quota_pb2.SetBudgetRequest(
                    node=self.node, limits=quota_pb2.Limits(budget_nano_usd=nano_usd)
                ),
                key=self.admin_key,
                address=self.layout.address("quota"),
            )

    async def read_budget(self) -> quota_pb2.Budget:
        """Where the organisation stands in quota."""
        async with self._quota() as stub:
            response = await call(
                stub.ListBudgets,
                quota_pb2.ListBudgetsRequest(node=self.node),
                key=self.admin_key,
                address=self.layout.address("quota"),
            )
            return response.budgets[0]

    async def chat(
        self, prompt: str, *, stream: bool = False, max_tokens: int = 24, **wishes: Any
    ) -> Told:
        """Ask by OpenAI's SDK; `wishes` go into the `farthing` object."""
        request: dict[str, Any] = {
            "model": wishes.pop("model", "auto"),
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "extra_body": {"farthing": wishes},
        }
        if stream:
            told = await self._chat_stream(request)
        else:
            answer = await self.client.chat.completions.create(**request)
            bill = (answer.model_extra or {})["farthing"]
            assert answer.usage is not None
            counts = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
            told = _told_by_bill(bill, answer.choices[0].message.content or "", counts)
        self.told.append(told)
        return told

    async def generate(self, request: router_pb2.GenerateRequest) -> Told:
        """Ask by gRPC, streamed."""
        decision, result, text = router_pb2.Decision(), None, ""
        async for event in self.open(request):
            if event.HasField("decision"):
                decision = event.decision
            elif event.HasField("delta"):
                text += event.delta.text
            else:
                result = event.result
        assert result is not None, "the stream ended without a result"
        return self.note(decision, result, text)

    async def complete(
        self, request: router_pb2.GenerateRequest, *, channel: grpc.aio.Channel | None = None
    ) -> Told:
        """Ask by gRPC, unary; at the edge site's router, or at the one behind `channel`."""
        answer = await router_pb2_grpc.RouterServiceStub(channel or self.channel).Complete(
            router_pb2.CompleteRequest(request=request),
            timeout=TIMEOUT_S,
            metadata=outgoing_metadata(None, self.key),
        )
        return self.note(answer.decision, answer.result, answer.text)

    async def explain(self, request: router_pb2.GenerateRequest) -> router_pb2.Decision:
        """What would be decided now."""
        answer = await self.stub.Explain(
            router_pb2.ExplainRequest(request=request),
            timeout=TIMEOUT_S,
            metadata=outgoing_metadata(None, self.key),
        )
        return answer.decision

    async def instances(self) -> Mapping[str, router_pb2.InstanceStatus]:
        """What the edge site's router knows, by instance id."""
        return await self._instances(self.channel)

    async def hard_task(self) -> tuple[str, float, float]:
        """The task at which the cloud's model is ahead by most, with the edge's quality and the cloud's, 0..1."""
        listed = await self.stub.ListModels(
            router_pb2.ListModelsRequest(),
            timeout=TIMEOUT_S,
            metadata=outgoing_metadata(None, self.key),
        )
        edge, cloud = (
            {entry.task: entry.quality_ratio for entry in model.info.qualities}
            for model in sorted(listed.models, key=lambda one: one.info.name != "edge-small")
        )
        task = max(edge.keys() & cloud.keys() - {""}, key=lambda one: cloud[one] - edge[one])
        assert edge[task] < cloud[task], f"the cloud's model is better at nothing: {cloud}"
        return task, edge[task], cloud[task]

    async def in_flight(self, instance_id: str) -> int:
        """Requests at an instance from both routers: the gateway may use either."""
        views = await asyncio.gather(*map(self._instances, (self.channel, self.cloud_channel)))
        return sum(view[instance_id].in_flight_count for view in views if instance_id in view)

    async def ready(self, *instance_ids: str) -> None:
        """Return when the edge site's router uses these instances."""

        async def all_ready() -> bool:
            found = await self.instances()
            states = [found[one].state for one in instance_ids if one in found]
            return states == [router_pb2.INSTANCE_STATE_READY] * len(instance_ids)

        await eventually(all_ready, timeout_s=30, what=f"{instance_ids} ready")

    def open(
        self, request: router_pb2.GenerateRequest, *, trace_id: str = ""
    ) -> grpc.aio.UnaryStreamCall[router_pb2.GenerateRequest, router_pb2.GenerateResponse]:
        """A stream in the caller's hands; read it, or cancel it."""
        trace = TraceContext(trace_id or new_trace_id(), new_span_id(), True)
        return self.stub.Generate(
            request, timeout=TIMEOUT_S, metadata=outgoing_metadata(trace, self.key)
        )

    def note(self, decision: router_pb2.Decision, result: router_pb2.Result, text: str) -> Told:
        """Remember an answer that was read by hand."""
        assert sum(line.amount_nano_usd for line in result.cost_lines) == result.total_nano_usd
        told = Told(
            trace_id=result.trace_id,
            text=text,
            tier=common_pb2.Tier.Name(decision.chosen.tier)[5:].lower(),
            model=decision.chosen.model,
            region=decision.chosen.region,
            finish_reason=common_pb2.FinishReason.Name(result.finish_reason)[14:].lower(),
            total_nano_usd=result.total_nano_usd,
            input_token_count=result.usage.input_token_count,
            output_token_count=result.usage.output_token_count,
            attempt_count=result.attempt_count,
        )
        self.told.append(told)
        return told

    async def _chat_stream(self, request: dict[str, Any]) -> Told:
        text, bill, counts = "", None, (0, 0)
        chunks = await self.client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in chunks:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
            if chunk.usage is not None:
                counts = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
            bill = (chunk.model_extra or {}).get("farthing") or bill
        assert bill is not None, "no chunk had the bill"
        return _told_by_bill(bill, text, counts)

    async def _instances(
        self, channel: grpc.aio.Channel
    ) -> Mapping[str, router_pb2.InstanceStatus]:
        answer = await router_pb2_grpc.RouterServiceStub(channel).ListInstances(
            router_pb2.ListInstancesRequest(),
            timeout=TIMEOUT_S,
            metadata=outgoing_metadata(None, self.key),
        )
        return {status.instance_id: status for status in answer.instances}

    @asynccontextmanager
    async def _quota(self) -> AsyncIterator[quota_pb2_grpc.QuotaServiceAsyncStub]:
        channel = open_channel(self.layout.address("quota"))
        try:
            yield quota_pb2_grpc.QuotaServiceStub(channel)
        finally:
            await channel.close()


@asynccontextmanager
async def make_tenant(
    layout: Layout, admin_key: str, *, budget_nano_usd: int = 1_000 * NANO_PER_USD
) -> AsyncIterator[Tenant]:
    """A new organisation with a key and a budget."""
    organisation = new_id("org").replace("_", "-")
    address = layout.address("quota")
    channel = open_channel(address)
    try:
        created = await call(
            quota_pb2_grpc.QuotaServiceStub(channel).CreateKey,
            quota_pb2.CreateKeyRequest(
                name="test", organisation_id=organisation, default_policy="cheapest"
            ),
            key=admin_key,
            address=address,
        )
    finally:
        await channel.close()
    router = open_channel(layout.address("router"))
    cloud_router = open_channel(f"{layout.cloud_host}:{layout.ports['router']}")
    client = AsyncOpenAI(
        base_url=f"http://{layout.address('gateway')}/v1",
        api_key=created.secret,
        max_retries=0,
        timeout=TIMEOUT_S,
    )
    tenant = Tenant(
        layout, organisation, created.secret, admin_key, client, router, cloud_router
    )
    try:
        await tenant.set_budget(budget_nano_usd)
        yield tenant
    finally:
        await asyncio.gather(router.close(), cloud_router.close(), client.close())
        await asyncio.sleep(0)  # the SDK's connections end on the next turn of the loop


def ask(
    prompt: str,
    *,
    max_tokens: int = 24,
    cache_mode: router_pb2.CacheMode = OFF,
    json_schema: str = "",
    model: str = "",
    **constraints: Any,
) -> router_pb2.GenerateRequest:
    """A greedy chat request that stays out of the cache unless told otherwise."""
    shape = None
    if json_schema:
        shape = inference_pb2.ResponseFormat(
            kind=inference_pb2.RESPONSE_FORMAT_KIND_JSON_SCHEMA, json_schema=json_schema
        )
    return router_pb2.GenerateRequest(
        model=model,
        input=inference_pb2.GenerationInput(
            messages=[
                inference_pb2.Message(
                    role=inference_pb2.ROLE_USER,
                    content=[inference_pb2.ContentPart(text=prompt)],
                )
            ],
            max_tokens=max_tokens,
            sampling=inference_pb2.SamplingParams(temperature=0),
            response_format=shape,
        ),
        constraints=router_pb2.Constraints(cache_mode=cache_mode, **constraints),
    )


def _told_by_bill(bill: Mapping[str, Any], text: str, counts: tuple[int, int]) -> Told:
    lines = bill["cost_lines"]
    assert sum(line["nano_usd"] for line in lines) == bill["total_nano_usd"]
    return Told(
        trace_id=bill["trace_id"],
        text=text,
        tier=bill["tier"],
        model=bill["model"],
        region=bill["region"],
        finish_reason=bill["finish_reason"],
        total_nano_usd=bill["total_nano_usd"],
        input_token_count=counts[0],
        output_token_count=counts[1],
        attempt_count=bill["attempt_count"],
    )
