"""The cache as a process: answers outlive it, even when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest

from farthing.api.cache.v1 import cache_pb2, cache_pb2_grpc
from farthing.api.common.v1 import common_pb2
from farthing.kit.rpc.channel import open_channel
from farthing.kit.testing import eventually, free_port

HASH = b"h" * 32


@pytest.mark.e2e
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
async def test_what_was_acknowledged_is_there_after_a_restart(
    tmp_path: Path, ending: signal.Signals
) -> None:
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name[:9] != "FARTHING_"}
    environment = kept | {
        "FARTHING_PORT": str(port),
        "FARTHING_METRICS_PORT": "-1",
        "FARTHING_DATA_DIR": str(tmp_path),
    }

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farthing.cache", env=environment
        )

    async with open_channel(f"127.0.0.1:{port}") as channel:
        stub = cache_pb2_grpc.CacheServiceStub(channel)
        lookup = cache_pb2.BatchLookupRequest(
            lookups=[cache_pb2.Lookup(tenant_id="acme", request_hash=HASH)]
        )

        async def found() -> cache_pb2.BatchLookupResponse | None:
            try:
                return await stub.BatchLookup(lookup, timeout=5)
            except grpc.aio.AioRpcError:
                return None

        process = await start()
        try:
            await eventually(found, timeout_s=30)
            answer = cache_pb2.CachedAnswer(
                text="42", finish_reason=common_pb2.FINISH_REASON_STOP
            )
            await stub.BatchStore(
                cache_pb2.BatchStoreRequest(
                    stores=[cache_pb2.Store(tenant_id="acme", request_hash=HASH, answer=answer)]
                )
            )
            process.send_signal(ending)
            code = await asyncio.wait_for(process.wait(), 30)
            assert code == (0 if ending is signal.SIGTERM else -ending)
            process = await start()
            response = await eventually(found, timeout_s=30)
            assert response.results[0].answer == answer
        finally:
            process.kill()
            await process.wait()
