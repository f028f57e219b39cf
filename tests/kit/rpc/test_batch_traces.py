"""A call that serves several requests shows in each one's trace, and in none of its own."""

from __future__ import annotations

import asyncio
import hashlib

from tests.cache.conftest import POLICY

from farthing.api.cache.v1 import cache_pb2_grpc
from farthing.cache.key_feed import KeyFeed
from farthing.cache.service import CacheServicer
from farthing.cache.store import MemoryCacheStore
from farthing.clients.cache import CacheClientOptions, RemoteCacheClient
from farthing.kit.rpc.channel import batch_metadata
from farthing.kit.telemetry.spans import SpanRecorder, TraceContext
from farthing.kit.testing import FakeClock, serve


async def _nobody_is_admin(key_digest: bytes) -> None:
    raise AssertionError("lookups need no administrator")


async def test_each_request_of_a_batch_has_the_call_in_its_own_trace() -> None:
    clock, recorder = FakeClock(), SpanRecorder()
    servicer = CacheServicer(
        MemoryCacheStore(POLICY), POLICY, KeyFeed(), clock=clock, require_admin=_nobody_is_admin
    )
    requests = [recorder.start(f"request {number}") for number in range(20)]
    register = (cache_pb2_grpc.add_CacheServiceServicer_to_server, servicer)
    async with serve(register, recorder=recorder) as (channel, _):
        client = RemoteCacheClient(
            channel, CacheClientOptions(lookup_timeout_s=5.0), clock=clock
        )
        await asyncio.gather(
            *(
                client.lookup(
                    "acme",
                    hashlib.sha256(bytes([number])).digest(),
                    traceparent=request.context.traceparent(),
                )
                for number, request in enumerate(requests)
            )
        )
        await client.close()
    spans = recorder.drain(100)
    assert {span.name for span in spans} == {"farthing.api.cache.v1.CacheService/BatchLookup"}
    assert {span.kind for span in spans} == {"server"}
    parents = [(span.context.trace_id, span.parent_span_id) for span in spans]
    expected = [(request.context.trace_id, request.context.span_id) for request in requests]
    assert sorted(parents) == sorted(expected)


def test_the_call_itself_goes_unrecorded_under_the_first_requests_trace() -> None:
    first = TraceContext("a" * 32, "b" * 16, True)
    ((name, value),) = batch_metadata(first.traceparent())
    assert name == "traceparent"
    assert TraceContext.from_traceparent(value) == first._replace(sampled=False)
    assert batch_metadata("") == ()
