"""RouterService: checks, hands over to the pipeline, encodes. No rule lives here."""

from __future__ import annotations

import hashlib
from typing import Any

from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import RouterServiceServicer
from farthing.clients.instances.pool import InstancePool
from farthing.clients.quota import QuotaClient
from farthing.kit.rpc.context import CallContext, current
from farthing.router.exchange import Event, Send
from farthing.router.pipeline import Pipeline
from farthing.router.refusals import key_error
from farthing.router.replay import ReplayLog
from farthing.router.validation import check_request
from farthing.router.wire import STATE, TIER


class RouterServicer(RouterServiceServicer):
    """See router.proto."""

    def __init__(
        self, pipeline: Pipeline, pool: InstancePool, quota: QuotaClient, replays: ReplayLog
    ) -> None:
        self._pipeline, self._pool, self._quota, self._replays = pipeline, pool, quota, replays

    async def Generate(  # type: ignore[override]  # writes its events itself: grpc.aio's other way to stream
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> None:
        """See router.proto."""
        await self._answer(request, context.write, stream=True)

    async def Complete(
        self, request: router_pb2.CompleteRequest, context: Any
    ) -> router_pb2.CompleteResponse:
        """See router.proto."""
        response, texts = router_pb2.CompleteResponse(), []

        async def collect(event: Event) -> None:
            if event.HasField("delta"):
                texts.append(event.delta.text)
                response.logprobs.extend(event.delta.logprobs)
            elif event.HasField("decision"):
                response.decision.CopyFrom(event.decision)
            else:
                response.result.CopyFrom(event.result)

        await self._answer(request.request, collect, stream=False)
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

    async def _answer(
        self, request: router_pb2.GenerateRequest, send: Send, *, stream: bool
    ) -> None:
        call, checked = current(), check_request(request)
        if not request.request_id or request.single_use:
            await self._pipeline.run(checked, call, send, stream=stream)
            return
        await self._replays.play(
            (call.require_key_digest(), request.request_id),
            hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
            lambda keep: self._pipeline.run(checked, call, keep, stream=stream),
            send,
        )

    async def _require_key(self, call: CallContext) -> None:
        if await self._quota.authenticate(call.require_key_digest()) is None:
            raise key_error()
