"""One instance of the pool: its channel, what it said of itself last, and the task that keeps listening."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace
from math import inf

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farthing.api.inference.v1 import inference_pb2
from farthing.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from farthing.clients.instances.breaker import Breaker, record_failure, record_success
from farthing.clients.instances.relay import Relay
from farthing.clients.instances.view import InstanceState, InstanceView, ModelView
from farthing.kit.clock import Clock
from farthing.kit.discovery import Instance, dial_address, place_of
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.tls import TlsFiles

_log = logging.getLogger(__name__)

_CALL_S = 2.0
_REPORT_OVERDUE_S = (
    2.0  # reports come at least every 250 ms; eight missed in a row mean a hung process
)
_PING_EVERY_S = 2.0
_RTT_WEIGHT = 0.2
_LONGEST_RETRY_S = 2.0
_LEAST_FIGURE = (
    1e-3  # tokens a second or bytes a token; below it is noise, and divides into nonsense
)
_CAPABILITY = {
    inference_pb2.CAPABILITY_CHAT: "chat",
    inference_pb2.CAPABILITY_JSON_SCHEMA: "json_schema",
    inference_pb2.CAPABILITY_LOGPROBS: "logprobs",
}


class Member:
    """Listens to one instance for as long as discovery knows it."""

    def __init__(
        self,
        instance_id: str,
        tier: str,
        instance: Instance,
        *,
        clock: Clock,
        tls: TlsFiles | None,
    ) -> None:
        self.tier, self.suspect = tier, instance.suspect
        self.place = (place_of(instance), instance.region)
        self._clock = clock
        self._channel = open_channel(dial_address(instance), tls=tls)
        self.stub = InferenceServiceStub(self._channel)
        self.relay: Relay | None = Relay(self.stub.Relay)
        # The stub makes its methods in __init__, which the type stubs do not show.
        self._check = health_pb2_grpc.HealthStub(self._channel).Check  # type: ignore[attr-defined]
        self._breaker = Breaker()
        self._connected = False
        self._starting = False
        self.changed = asyncio.Event()
        self.models: dict[str, inference_pb2.ModelInfo] = {}
        self._described: tuple[ModelView, ...] = ()
        self.load = inference_pb2.LoadReport()
        self._view = InstanceView(
            instance_id,
            tier,
            instance.region,
            instance.address,
            state=InstanceState.CONNECTING,
        )
        self._tasks = [
            asyncio.ensure_future(self._listen()),
            asyncio.ensure_future(self._ping()),
        ]

    def view(self, now: float) -> InstanceView:
        """The instance at this moment; the same object while nothing changes."""
        if not self.models:
            state = InstanceState.CONNECTING
        elif not self._connected or self._starting or self._breaker.ejected(now):
            state = InstanceState.EJECTED
        elif self.suspect:
            state = InstanceState.SUSPECT
        else:
            state = InstanceState.READY
        if state is not self._view.state:
            self._view = replace(self._view, state=state)
        return self._view

    def record(self, success: bool, now: float) -> None:
        """Take the outcome of a call into account."""
        self._breaker = (
            record_success(self._breaker) if success else record_failure(self._breaker, now)
        )

    async def close(self, grace_s: float = 0.0) -> None:
        """Stop listening; calls in flight get `grace_s` to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.relay is not None:
            await self.relay.close(grace_s)
        await self._channel.close(grace_s)

    async def _listen(self) -> None:
        retry_s = 0.05
        while True:
            try:
                await self._list_models()
                await self._follow_load()
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                if self._connected:
                    _log.warning(
                        "instance %s does not answer: %s", self._view.instance_id, _brief(error)
                    )
            if self._connected:
                retry_s = 0.05  # it was well a moment ago
            self._connected = False
            self.changed.set()
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(retry_s * 2, _LONGEST_RETRY_S)

    async def _list_models(self) -> None:
        models = await self.stub.ListModels(inference_pb2.ListModelsRequest(), timeout=_CALL_S)
        self.models = {info.name: info for info in models.models}
        self._described = tuple(map(_describe, self.models.values()))

    async def _follow_load(self) -> None:
        version: int | None = None
        reports = self.stub.WatchLoad(inference_pb2.WatchLoadRequest())
        try:
            while True:
                async with asyncio.timeout(_REPORT_OVERDUE_S):
                    report = await reports.read()
                if report is grpc.aio.EOF:
                    return
                assert isinstance(report, inference_pb2.WatchLoadResponse)
                if report.load.models_version != version:
                    if version is not None:
                        await self._list_models()
                    version = report.load.models_version
                self._take(report.load)
        finally:
            reports.cancel()

    def _take(self, load: inference_pb2.LoadReport) -> None:
        self.changed.set()
        if load == self.load and self._connected:
            return  # an idle instance says the same four times a second
        self.load = load
        if not self._connected:
            self._connected = True
            self.record(True, self._clock.monotonic())
        # An engine that starts again after a crash says so: nothing need be tried there meanwhile.
        self._starting = load.state == inference_pb2.ENGINE_STATE_STARTING
        speeds = {speed.model: speed for speed in load.speeds}
        self._view = replace(
            self._view,
            models=tuple(
                _add_speed(model, speeds.get(model.name)) for model in self._described
            ),
            running_count=max(0, load.running_request_count),
            queued_count=max(0, load.queued_request_count),
            capacity_count=max(1, load.capacity_request_count),
        )

    async def _ping(self) -> None:
        """Measure the round trip; the data path's own would include the engine's work."""
        while True:
            started = self._clock.monotonic()
            try:
                await self._check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
            except grpc.aio.AioRpcError:
                pass  # _listen deals with instances that are away
            else:
                sample = round((self._clock.monotonic() - started) * 1e6)
                known = self._view.rtt_us
                rtt_us = round(known + (sample - known) * _RTT_WEIGHT) if known else sample
                self._view = replace(self._view, rtt_us=rtt_us)
            await asyncio.sleep(_PING_EVERY_S * random.uniform(0.8, 1.2))


# Figures that cannot be count as unknown: one confused instance must not upset the arithmetic of all decisions.


def _describe(info: inference_pb2.ModelInfo) -> ModelView:
    return ModelView(
        name=info.name,
        digest=info.digest,
        context_length=max(0, info.context_length),
        capabilities=frozenset(_CAPABILITY[c] for c in info.capabilities if c in _CAPABILITY),
        qualities={
            entry.task: entry.quality_ratio
            for entry in info.qualities
            if 0.0 <= entry.quality_ratio <= 1.0
        },
        bytes_per_token=_positive(info.bytes_per_token),
    )


def _add_speed(model: ModelView, speed: inference_pb2.ModelSpeed | None) -> ModelView:
    if speed is None:
        return model
    return replace(
        model,
        prefill_tokens_per_second=_positive(speed.prefill_tokens_per_second),
        decode_tokens_per_second=_positive(speed.decode_tokens_per_second),
        token_interval_us=_positive(speed.token_interval_us),
        step_us=_positive(speed.step_us),
    )


def _positive(value: float) -> float:
    return value if _LEAST_FIGURE <= value < inf else 0.0


def _brief(error: BaseException) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else "no load report"
