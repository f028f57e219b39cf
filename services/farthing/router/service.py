"""RouterService: checks, hands over to the pipeline, encodes. No rule lives here."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import RouterServiceServicer
from farthing.clients.instances.pool import InstancePool
from farthing.clients.quota import QuotaClient
from farthing.kit.errors import Internal, Unauthenticated
from farthing.kit.rpc.context import CallContext, current
from farthing.router.pipeline import Event, Pipeline
from farthing.router.replay import ReplayLog
from farthing.router.validation import check_request
from farthing.router.wire import STATE, TIER


class RouterServicer(RouterServiceServicer):
    """See router.proto."""

    def __init__(
        self, pipeline: Pipeline, pool: InstancePool, quota: QuotaClient, replays: ReplayLog
    ) -> None:
        self._pipeline, self._pool, self._quota, self._replays = pipeline, pool, quota, replays

    async def Generate(
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[router_pb2.GenerateResponse]:
        """See router.proto."""
        async with aclosing(self._answer(request, current(), stream=True)) as events:
            async for event in events:
                yield event

    async def Complete(
        self, request: router_pb2.CompleteRequest, context: Any
    ) -> router_pb2.CompleteResponse:
        """See router.proto."""
        response, texts = router_pb2.CompleteResponse(), []
        async with aclosing(self._answer(request.request, current(), stream=False)) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "delta":
                    texts.append(event.delta.text)
                    response.logprobs.extend(event.delta.logprobs)
                elif kind == "decision":
                    response.decision.CopyFrom(event.decision)
                else:
                    response.result.CopyFrom(event.result)
        if not response.HasField("result"):
            raise Internal("the request ended without a result", reason="NO_RESULT")
        response.text = "".join(texts)
        return response

    async def Explain(
        self, request: router_pb2.ExplainRequest, context: Any
    ) -> router_pb2.ExplainResponse:
        """See router.proto."""
        checked = check_request(request.request)
        return router_pb2.ExplainResponse(
            decision=await self._pipeline.explain(checked, current())
        )

    async def ListModels(
        self, request: router_pb2.ListModelsRequest, context: Any
    ) -> router_pb2.ListModelsResponse:
        """See router.proto."""
        await self._require_key(current())
        models: dict[str, router_pb2.RoutableModel] = {}
        for region, info in self._pool.list_models():
            entry = models.setdefault(info.name, router_pb2.RoutableModel(info=info))
            if info.context_length > entry.info.context_length:
                entry.info.CopyFrom(info)
            entry.instance_count += 1
            if region not in entry.regions:
                entry.regions.append(region)
        return router_pb2.ListModelsResponse(models=[models[name] for name in sorted(models)])

    async def ListInstances(
        self, request: router_pb2.ListInstancesRequest, context: Any
    ) -> router_pb2.ListInstancesResponse:
        """See router.proto."""
        await self._require_key(current())
        return router_pb2.ListInstancesResponse(
            instances=[
                router_pb2.InstanceStatus(
                    instance_id=view.instance_id,
                    address=view.address,
                    tier=TIER.get(view.tier, TIER["cloud"]),
                    region=view.region,
                    models=[model.name for model in view.models],
                    load=self._pool.load_of(view.instance_id),
                    rtt_us=view.rtt_us,
                    state=STATE[view.state],
                    in_flight_count=self._pool.in_flight.get(view.instance_id, 0),
                )
                for view in sorted(self._pool.view(), key=lambda view: view.instance_id)
            ],
            view_age_ms=self._pool.age_ms(),
        )

    def _answer(
        self, request: router_pb2.GenerateRequest, call: CallContext, *, stream: bool
    ) -> AsyncGenerator[Event]:
        events = self._pipeline.run(check_request(request), call, stream=stream)
        if not request.request_id:
            return events
        fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        return self._replays.play(
            call.require_key_digest(), request.request_id, fingerprint, events
        )

    async def _require_key(self, call: CallContext) -> None:
        if await self._quota.authenticate(call.require_key_digest()) is None:
            raise Unauthenticated(
                "the API key is unknown, revoked or expired; `farthing keys create` makes one",
                reason="KEY_INVALID",
            )
