"""The routers that discovery knows: one channel each, nearest and least busy first, one retry before any token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.kit.discovery import Instance, ServiceWatch, dial_address, place_of
from farthing.kit.errors import FarthingError, Unavailable
from farthing.kit.rpc.channel import decode_error, open_channel
from farthing.kit.rpc.tls import TlsFiles

Metadata = tuple[tuple[str, str], ...]
_STAYS_HERE = (common_pb2.PRIVACY_CLASS_EDGE_ONLY, common_pb2.PRIVACY_CLASS_REGION)
_CLOSE_GRACE_S = 600.0  # a router that left discovery still ends the streams it has


class Router:
    """One router: its channel's stub and how many calls of ours it has."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = router_pb2_grpc.RouterServiceStub(channel)
        self.in_flight_count = 0


class RouterPool:
    """Calls routers. Errors come as FarthingError; leaving a call early cancels it at once.

    A call that a router could not take (Unavailable before the first text) goes to another one, once.
    """

    def __init__(
        self,
        watch: ServiceWatch,
        *,
        region: str,
        timeout_s: float,
        tls: TlsFiles | None = None,
    ) -> None:
        self._region, self._timeout_s, self._tls = region, timeout_s, tls
        self._routers: dict[str, Router] = {}
        self._ranks: dict[str, tuple[bool, bool]] = {}
        self._regions: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] = watch.subscribe(self._follow)
        self._follow(watch.instances)

    @property
    def known(self) -> bool:
        """True when there is a router to call."""
        return bool(self._ranks)

    async def complete(
        self, request: router_pb2.GenerateRequest, metadata: Metadata
    ) -> router_pb2.CompleteResponse:
        """A whole answer."""
        message = router_pb2.CompleteRequest(request=request)
        tried: set[str] = set()
        while True:
            with self._use(tried, request.constraints) as router:
                try:
                    return await router.stub.Complete(
                        message, timeout=self._timeout_s, metadata=metadata
                    )
                except grpc.aio.AioRpcError as error:
                    failure = decode_error(error)
            if not self._may_retry(failure, tried, request.constraints):
                raise failure

    async def generate(
        self, request: router_pb2.GenerateRequest, metadata: Metadata
    ) -> AsyncGenerator[router_pb2.GenerateResponse]:
        """The events of a stream. Close the iterator to cancel."""
        tried: set[str] = set()
        while True:
            started = False
            with self._use(tried, request.constraints) as router:
                call = router.stub.Generate(request, timeout=self._timeout_s, metadata=metadata)
                try:
                    async for event in call:
                        # A decision alone commits to nothing: another may follow before the first text.
                        started = started or not event.HasField("decision")
                        yield event
                    return
                except grpc.aio.AioRpcError as error:
                    failure = decode_error(error)
                finally:
                    call.cancel()
            if started or not self._may_retry(failure, tried, request.constraints):
                raise failure

    async def list_models(self, metadata: Metadata) -> router_pb2.ListModelsResponse:
        """The models that the router reaches now."""
        with self._use(set(), router_pb2.Constraints()) as router:
            try:
                return await router.stub.ListModels(
                    router_pb2.ListModelsRequest(), timeout=self._timeout_s, metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                raise decode_error(error) from error

    async def close(self) -> None:
        """Close all channels."""
        self._unsubscribe()
        self._ranks.clear()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(
            *(router.channel.close() for router in self._routers.values()),
            *self._closing,
            return_exceptions=True,
        )
        self._routers.clear()

    @contextmanager
    def _use(self, tried: set[str], wishes: router_pb2.Constraints) -> Iterator[Router]:
        address = self._pick(tried, wishes)
        tried.add(address)
        router = self._routers[address]
        router.in_flight_count += 1
        try:
            yield router
        finally:
            router.in_flight_count -= 1

    def _choices(self, tried: set[str], wishes: router_pb2.Constraints) -> list[str]:
        return [
            address
            for address in self._ranks
            if address not in tried and self._may_see(self._regions[address], wishes)
        ]

    def _may_see(self, region: str, wishes: router_pb2.Constraints) -> bool:
        """Whether a router of `region` may be given the prompt: already to be routed there is to leave this place."""
        if region == self._region:
            return True
        if wishes.privacy_class in _STAYS_HERE:
            return False
        return not wishes.residency or region in wishes.residency

    def _pick(self, tried: set[str], wishes: router_pb2.Constraints) -> str:
        choices = self._choices(tried, wishes)
        if not choices:
            raise Unavailable(
                "no router that may see this prompt is known; start one or wait for discovery",
                reason="ROUTER_UNKNOWN",
                retry_after_ms=1000,
            )
        return min(
            choices,
            key=lambda address: (self._ranks[address], self._routers[address].in_flight_count),
        )

    def _may_retry(
        self, failure: FarthingError, tried: set[str], wishes: router_pb2.Constraints
    ) -> bool:
        # Only what the transport says: a router that answers "unavailable" itself has looked at all it could do.
        refused = isinstance(failure, Unavailable) and failure.reason == "GRPC_UNAVAILABLE"
        return refused and len(tried) == 1 and bool(self._choices(tried, wishes))

    def _follow(self, instances: Mapping[str, Instance]) -> None:
        places = {place_of(instance): instance for instance in instances.values()}
        self._ranks = {
            place: (instance.suspect, instance.region != self._region)
            for place, instance in places.items()
        }
        self._regions = {place: instance.region for place, instance in places.items()}
        for place in places.keys() - self._routers.keys():
            channel = open_channel(dial_address(places[place]), tls=self._tls)
            self._routers[place] = Router(channel)
        for address in self._routers.keys() - self._ranks.keys():
            task = asyncio.ensure_future(
                self._routers.pop(address).channel.close(_CLOSE_GRACE_S)
            )
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
