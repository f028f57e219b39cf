"""A gateway on a real port in front of a router servicer on a real port."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from farthing.api.common.v1 import common_pb2
from farthing.api.inference.v1 import inference_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.gateway.routers import RouterPool
from farthing.gateway.server import make_runner, open_port
from farthing.gateway.service import Gateway
from farthing.gateway.settings import GatewaySettings
from farthing.kit.clock import SystemClock
from farthing.kit.discovery import Instance, ServiceWatch
from farthing.kit.errors import FarthingError, Unauthenticated
from farthing.kit.rpc import context as call_context
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import SpanRecorder
from farthing.kit.testing import free_port, serve

KEY = "fk-test"
WORDS = ("Two", " plus", " two", " is", " four", ".")
LINES = (
    common_pb2.CostLine(
        kind=common_pb2.COST_KIND_COMPUTE,
        amount_nano_usd=1200,
        quantity=340,
        unit=common_pb2.COST_UNIT_US,
    ),
    common_pb2.CostLine(
        kind=common_pb2.COST_KIND_EGRESS,
        amount_nano_usd=34,
        quantity=21,
        unit=common_pb2.COST_UNIT_BYTES,
    ),
)


class ScriptedRouter(router_pb2_grpc.RouterServiceServicer):
    """Answers as told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[router_pb2.GenerateRequest] = []
        self.traces: list[str] = []
        self.error: FarthingError | None = None
        self.error_after_words: FarthingError | None = None
        self.finish_reason = common_pb2.FINISH_REASON_STOP
        # Words wait for the gate, so that a test can look while a stream is open.
        self.gate = asyncio.Event()
        self.gate.set()
        self.open_count = 0
        self.cancelled_count = 0

    async def Generate(
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[router_pb2.GenerateResponse]:
        self._enter(request)
        self.open_count += 1
        try:
            yield router_pb2.GenerateResponse(decision=self._decision())
            for place, word in enumerate(WORDS):
                if place:
                    await self.gate.wait()
                yield router_pb2.GenerateResponse(delta=self._delta(request, (word,)))
            if self.error_after_words is not None:
                raise self.error_after_words
            yield router_pb2.GenerateResponse(result=self._result(request))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled_count += 1
            raise
        finally:
            self.open_count -= 1

    async def Complete(
        self, request: router_pb2.CompleteRequest, context: Any
    ) -> router_pb2.CompleteResponse:
        self._enter(request.request)
        self.open_count += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        finally:
            self.open_count -= 1
        return router_pb2.CompleteResponse(
            text="".join(WORDS),
            logprobs=self._delta(request.request, WORDS).logprobs,
            decision=self._decision(),
            result=self._result(request.request),
        )

    async def ListModels(
        self, request: router_pb2.ListModelsRequest, context: Any
    ) -> router_pb2.ListModelsResponse:
        self._check_key()
        info = inference_pb2.ModelInfo(name="edge-small", context_length=1024, format="gguf")
        return router_pb2.ListModelsResponse(
            models=[
                router_pb2.RoutableModel(info=info, regions=["edge-site"], instance_count=1)
            ]
        )

    async def Explain(
        self, request: router_pb2.ExplainRequest, context: Any
    ) -> router_pb2.ExplainResponse:
        return router_pb2.ExplainResponse(decision=self._decision())

    async def ListInstances(
        self, request: router_pb2.ListInstancesRequest, context: Any
    ) -> router_pb2.ListInstancesResponse:
        return router_pb2.ListInstancesResponse()

    def _enter(self, request: router_pb2.GenerateRequest) -> None:
        self._check_key()
        self.requests.append(request)
        self.traces.append(call_context.current().trace.trace_id)
        if self.error is not None:
            raise self.error

    def _check_key(self) -> None:
        if call_context.current().api_key != KEY:
            raise Unauthenticated("the API key is unknown", reason="KEY_UNKNOWN")

    def _decision(self) -> router_pb2.Decision:
        return router_pb2.Decision(
            decision_id="dec_1",
            chosen=router_pb2.Candidate(
                instance_id="edge-1",
                model="edge-small",
                tier=common_pb2.TIER_EDGE,
                region="edge-site",
                estimated_nano_usd=1300,
                quality_ratio=0.9,
            ),
            rejected=[
                router_pb2.Candidate(
                    model="cloud-large",
                    tier=common_pb2.TIER_CLOUD,
                    region="cloud-a",
                    estimated_nano_usd=9000,
                    reject_reason=router_pb2.REJECT_REASON_COST,
                    reason="costs 7700 nano-USD more",
                )
            ],
            policy="balanced",
            price_version="2026-11",
            reason="cheapest of 2",
        )

    def _delta(
        self, request: router_pb2.GenerateRequest, words: tuple[str, ...]
    ) -> inference_pb2.Delta:
        logprobs = [
            inference_pb2.TokenLogprob(
                token=word,
                logprob=-0.5,
                top=[inference_pb2.TokenLogprob(token=word, logprob=-0.5)],
            )
            for word in words
        ]
        return inference_pb2.Delta(
            text="".join(words),
            token_count=len(words),
            logprobs=logprobs if request.input.logprobs else [],
        )

    def _result(self, request: router_pb2.GenerateRequest) -> router_pb2.Result:
        return router_pb2.Result(
            request_id=request.request_id,
            finish_reason=self.finish_reason,
            usage=common_pb2.Usage(
                input_token_count=12, output_token_count=6, cached_input_token_count=4
            ),
            cost_lines=LINES,
            total_nano_usd=1234,
            decision_id="dec_1",
            trace_id=call_context.current().trace.trace_id,
            attempt_count=1,
        )


@dataclass
class World:
    """A running gateway."""

    url: str
    router: ScriptedRouter
    gateway: Gateway
    runner: web.AppRunner
    recorder: SpanRecorder
    watch: ServiceWatch


@asynccontextmanager
async def run_world() -> AsyncIterator[World]:
    """Start both, and stop both at the end."""
    router, recorder, metrics = ScriptedRouter(), SpanRecorder(), Metrics("gateway")
    registered = (router_pb2_grpc.add_RouterServiceServicer_to_server, router)
    async with serve(registered) as (_, address):
        watch = ServiceWatch("router")
        publish(watch, address)
        routers = RouterPool(watch, region="edge-site", timeout_s=30)
        gateway = Gateway(routers, clock=SystemClock(), recorder=recorder, metrics=metrics)
        settings = GatewaySettings(port=free_port(), drain_ms=20_000)
        runner = make_runner(gateway, settings)
        await open_port(runner, settings.host, settings.port)
        url = f"http://{settings.host}:{settings.port}"
        yield World(url, router, gateway, runner, recorder, watch)
        router.gate.set()
        await runner.cleanup()
        await routers.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A running gateway."""
    async with run_world() as world:
        yield world


def publish(watch: ServiceWatch, *addresses: str) -> None:
    """Make these the routers that discovery knows, the first one nearest."""
    instances = [
        Instance(address, "router", address, "edge-site" if place == 0 else "cloud-a")
        for place, address in enumerate(addresses)
    ]
    watch.publish({instance.id: instance for instance in instances}, 0.0)


@pytest.fixture
def world_in_thread() -> Iterator[str]:
    """The URL of a gateway whose event loop runs in a thread, for clients that block."""
    ready: queue.SimpleQueue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = (
        queue.SimpleQueue()
    )

    async def live() -> None:
        async with run_world() as world:
            stop = asyncio.Event()
            ready.put((world.url, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    url, loop, stop = ready.get(timeout=30)
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join()
