"""One call's right to an instance."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.clients.instances.member import Member
from farthing.clients.instances.relay import NoRelay
from farthing.kit.clock import Clock
from farthing.kit.rpc.channel import decode_error, outgoing_metadata
from farthing.kit.telemetry.spans import TraceContext

Event = pb.GenerateResponse | pb.RelayEvent
"""Has `delta` or `completion`."""


class Lease:
    """A context manager around one call; entering counts it as in flight. Tell it how the call went.

    Requests share a kept call where the instance has one, and have calls of their own elsewhere. Errors are domain
    errors either way.
    """

    __slots__ = ("_clock", "_in_flight", "_instance_id", "_member")

    def __init__(
        self, instance_id: str, member: Member, clock: Clock, in_flight: dict[str, int]
    ) -> None:
        self._instance_id, self._member = instance_id, member
        self._clock, self._in_flight = clock, in_flight

    def __enter__(self) -> Lease:
        self._in_flight[self._instance_id] = self._in_flight.get(self._instance_id, 0) + 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        left = self._in_flight[self._instance_id] - 1
        if left:
            self._in_flight[self._instance_id] = left
        else:
            del self._in_flight[self._instance_id]

    async def complete(
        self, request: pb.GenerateRequest, *, timeout_s: float, trace: TraceContext
    ) -> pb.CompleteResponse:
        """The whole answer. Cancelling frees the engine."""
        relay = self._member.relay
        if relay is not None:
            try:
                return await relay.complete(
                    request, timeout_s=timeout_s, traceparent=trace.traceparent()
                )
            except NoRelay:
                self._member.relay = None
        try:
            return await self._member.stub.Complete(
                pb.CompleteRequest(request=request),
                timeout=timeout_s,
                metadata=outgoing_metadata(trace),
            )
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error

    async def generate(
        self, request: pb.GenerateRequest, *, timeout_s: float, trace: TraceContext
    ) -> AsyncGenerator[Event]:
        """Deltas, then one completion. Closing it frees the engine."""
        relay = self._member.relay
        if relay is not None:
            relayed = relay.generate(
                request, timeout_s=timeout_s, traceparent=trace.traceparent()
            )
            try:
                async with aclosing(relayed):
                    async for event in relayed:
                        yield event
                return
            except NoRelay:
                self._member.relay = None
        call = self._member.stub.Generate(
            request, timeout=timeout_s, metadata=outgoing_metadata(trace)
        )
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise decode_error(error) from error
        finally:
            call.cancel()  # frees the engine at once; does nothing to a call that has ended

    def succeeded(self) -> None:
        """The instance did its part."""
        self._member.record(True, self._clock.monotonic())

    def failed(self) -> None:
        """The instance failed for its own reasons: not for a bad request, a full queue or a gone client."""
        self._member.record(False, self._clock.monotonic())
