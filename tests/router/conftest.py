"""A router in a real surrounding: quota, ledger, outbox and discovery are real; only engines are scripted."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from farthing.api.inference.v1 import inference_pb2
from farthing.api.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from farthing.api.ledger.v1 import ledger_pb2_grpc
from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.api.router.v1 import router_pb2
from farthing.api.router.v1.router_pb2_grpc import (
    RouterServiceStub,
    add_RouterServiceServicer_to_server,
)
from farthing.clients.cache import CacheClientOptions, InMemoryCacheClient
from farthing.clients.instances.pool import InstancePool
from farthing.clients.ledger import ChargeSender
from farthing.clients.outbox import Outbox
from farthing.clients.quota_strict import StrictQuotaClient
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import Registration, StaticRegistry
from farthing.kit.discovery.file_documents import FileDocuments
from farthing.kit.ids import new_id
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.kit.testing import eventually, serve
from farthing.ledger.core.charges import Charge
from farthing.ledger.service import LedgerServicer
from farthing.ledger.store import ChargeQuery, MemoryLedgerStore
from farthing.quota.metrics import QuotaMetrics
from farthing.quota.service import QuotaServicer
from farthing.quota.store import MemoryQuotaStore
from farthing.quota.upkeep import add_bootstrap_key
from farthing.router.metrics import RouterMetrics
from farthing.router.pipeline import Pipeline, StreamOptions
from farthing.router.replay import ReplayLog
from farthing.router.service import RouterServicer
from farthing.router.settling import Biller
from farthing.router.world import LiveWorld

ADMIN = "fk-admin-admin-admin-admin-admin-admin"
PRICES = {
    "version": "test-1",
    "deployments": [
        {
            "tier": "edge",
            "compute": {"nano_usd_per_hour": 36_000_000, "utilisation_percent": 50},
            "energy": {"power_mw": 15_000, "nano_usd_per_kwh": 300_000_000},
        },
        {"tier": "cloud", "compute": {"nano_usd_per_hour": 720_000_000}},
    ],
    "links": [
        {"from": "cloud-a", "to": "edge-site", "nano_usd_per_gb": 90_000_000},
        {"from": "edge-site", "to": "cloud-a", "nano_usd_per_gb": 0},
    ],
    "cache": {"lookup_nano_usd": 50},
}


@dataclass
class Engine:
    """One scripted instance of the lab."""

    servicer: Any
    tier: str
    region: str


@dataclass
class RouterLab:
    """The router's stub and what is around it."""

    stub: Any
    quota: Any
    ledger: MemoryLedgerStore
    recorder: SpanRecorder
    outbox: Outbox
    pool: InstancePool
    metadata: tuple[tuple[str, str], ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)

    async def complete(self, *text: str, **values: Any) -> router_pb2.CompleteResponse:
        request = router_pb2.CompleteRequest(request=ask(*text, **values))
        answer: router_pb2.CompleteResponse = await self.stub.Complete(
            request, metadata=self.metadata, timeout=60
        )
        return answer

    async def stream(self, *text: str, **values: Any) -> list[router_pb2.GenerateResponse]:
        call = self.stub.Generate(ask(*text, **values), metadata=self.metadata, timeout=60)
        return [event async for event in call]

    async def spent(self) -> tuple[int, int]:
        """(settled, held) of the organisation, when everything has been delivered."""
        await self.outbox.drained()
        response = await self.quota.ListBudgets(
            quota_pb2.ListBudgetsRequest(node="organisation:acme"),
            metadata=(("authorization", f"Bearer {ADMIN}"),),
        )
        return response.budgets[0].spent_nano_usd, response.budgets[0].held_nano_usd

    async def charges(self) -> list[Charge]:
        """Everything in the ledger, when everything has been delivered."""
        await self.outbox.drained()
        return await self.ledger.list_charges(ChargeQuery(0, 2**62, limit=1000))

    async def charged(self) -> int:
        return sum(charge.total_nano_usd for charge in await self.charges())


def ask(text: str = "what is 20 + 4?", **values: Any) -> router_pb2.GenerateRequest:
    """A request; names of GenerationInput and Constraints go where they belong."""
    outer = {"request_id", "model", "conversation_id", "single_use"}
    limits = set(router_pb2.Constraints.DESCRIPTOR.fields_by_name)
    given = {k: v for k, v in values.items() if k not in outer and k not in limits}
    given.setdefault("max_tokens", 16)
    if "prompt" not in given and "messages" not in given:
        part = inference_pb2.ContentPart(text=text)
        given["messages"] = [
            inference_pb2.Message(role=inference_pb2.ROLE_USER, content=[part])
        ]
    return router_pb2.GenerateRequest(
        input=inference_pb2.GenerationInput(**given),
        constraints=router_pb2.Constraints(**{k: v for k, v in values.items() if k in limits}),
        **{k: v for k, v in values.items() if k in outer},
    )


class LabFactory:
    """Builds labs; everything is closed at the end of the test."""

    def __init__(self, stack: AsyncExitStack, path: Path) -> None:
        self._stack, self._path = stack, path

    async def build(
        self,
        *engines: Engine,
        budget_nano_usd: int | None = None,
        prices: dict[str, Any] | None = None,
        coalesce_from: int = 1000,
        outbox_entries: int = 100_000,
    ) -> RouterLab:
        clock = SystemClock()
        store = MemoryQuotaStore()
        await store.open()
        await add_bootstrap_key(
            store, ADMIN, key_id=new_id("key"), now_ms=clock.time_ns() // 1_000_000
        )
        quota_servicer = QuotaServicer(
            store,
            clock=clock,
            metrics=QuotaMetrics(Metrics("quota")),
            make_id=new_id,
            make_entropy=secrets.token_bytes,
        )
        quota_channel, _ = await self._stack.enter_async_context(
            serve((quota_pb2_grpc.add_QuotaServiceServicer_to_server, quota_servicer))
        )
        quota: Any = quota_pb2_grpc.QuotaServiceStub(quota_channel)
        limits = quota_pb2.Limits()
        if budget_nano_usd is not None:
            limits.budget_nano_usd = budget_nano_usd
        admin = (("authorization", f"Bearer {ADMIN}"),)
        key = await quota.CreateKey(
            quota_pb2.CreateKeyRequest(name="test", organisation_id="acme"), metadata=admin
        )
        await quota.SetBudget(
            quota_pb2.SetBudgetRequest(node="organisation:acme", limits=limits), metadata=admin
        )

        ledger = MemoryLedgerStore()

        async def nobody(digest: bytes) -> Any:
            raise AssertionError("the router only records")

        ledger_channel, _ = await self._stack.enter_async_context(
            serve(
                (
                    ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                    LedgerServicer(ledger, nobody, clock, Metrics("ledger")),
                )
            )
        )
        registry = StaticRegistry(None, clock=clock)
        self._stack.push_async_callback(registry.close)
        addresses = {}
        for number, engine in enumerate(engines):
            _, address = await self._stack.enter_async_context(
                serve((add_InferenceServiceServicer_to_server, engine.servicer))
            )
            name = f"{engine.tier}-{number}"
            addresses[name] = address
            await registry.register(
                Registration(name, f"infer-{engine.tier}", address, engine.region)
            )
        pool = InstancePool(registry, clock=clock)
        pool.start()
        self._stack.push_async_callback(pool.close)
        documents_dir = self._path / "documents"
        (documents_dir / "prices").mkdir(parents=True)
        (documents_dir / "prices" / "current.json").write_text(json.dumps(prices or PRICES))
        documents = FileDocuments(documents_dir)
        self._stack.push_async_callback(documents.close)
        world = LiveWorld("edge-site", pool, documents)
        world.start()
        await documents.get("prices/current")
        outbox = Outbox(self._path / "outbox", clock=clock, max_entry_count=outbox_entries)
        await outbox.open()
        self._stack.push_async_callback(outbox.close)
        ChargeSender(ledger_channel, outbox)
        quota_client = StrictQuotaClient(quota_channel, outbox, deadline_ms=30_000)
        self._stack.push_async_callback(quota_client.close)
        recorder = SpanRecorder()
        metrics = RouterMetrics(Metrics("router"))
        pipeline = Pipeline(
            world=world,
            pool=pool,
            quota=quota_client,
            cache=InMemoryCacheClient(CacheClientOptions(), clock=clock),
            biller=Biller(outbox, clock, metrics),
            recorder=recorder,
            region="edge-site",
            streams=StreamOptions(20, coalesce_from),
            metrics=metrics,
        )
        channel, _ = await self._stack.enter_async_context(
            serve(
                (
                    add_RouterServiceServicer_to_server,
                    RouterServicer(pipeline, pool, quota_client, ReplayLog(clock)),
                ),
                recorder=recorder,
            )
        )
        lab = RouterLab(
            stub=RouterServiceStub(channel),
            quota=quota,
            ledger=ledger,
            recorder=recorder,
            outbox=outbox,
            pool=pool,
            metadata=(("authorization", f"Bearer {key.secret}"),),
            addresses=addresses,
        )
        if engines:
            await eventually(
                lambda: (
                    len(pool.view()) == len(engines)
                    and all(view.state.value == "ready" for view in pool.view())
                ),
                what="all engines ready",
            )
        return lab


@pytest.fixture
async def labs(tmp_path: Path) -> AsyncIterator[LabFactory]:
    """Builds router labs."""
    async with AsyncExitStack() as stack:
        yield LabFactory(stack, tmp_path)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """ErrorInfo.reason of a failed call."""
    from farthing.kit.rpc.status import decode_error

    return decode_error(error).reason
