"""The ledger as a process: it serves all its ports, forgets nothing when killed, ends when asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from farthing.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import decode_error, open_channel, outgoing_metadata
from farthing.kit.testing import eventually, free_port
from farthing.ledger import codec
from farthing.ledger.core.charges import Charge

pytestmark = pytest.mark.e2e

PORTS = ("PORT", "OTLP_GRPC_PORT", "OTLP_HTTP_PORT", "CONSOLE_PORT")


class Running:
    """A started ledger process."""

    def __init__(self, process: asyncio.subprocess.Process, ports: dict[str, int]) -> None:
        self.process, self.ports = process, ports

    async def serving(self) -> bool:
        if self.process.returncode is not None:
            assert self.process.stderr is not None
            raise AssertionError((await self.process.stderr.read()).decode())
        channel = open_channel(f"127.0.0.1:{self.ports['PORT']}")
        try:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = await check(health_pb2.HealthCheckRequest(), timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        except grpc.aio.AioRpcError:
            return False
        finally:
            await channel.close()


@asynccontextmanager
async def running(data_dir: Path, ports: dict[str, int]) -> AsyncIterator[Running]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    environ |= {f"FARTHING_{name}": str(port) for name, port in ports.items()}
    environ |= {"FARTHING_DATA_DIR": str(data_dir), "FARTHING_METRICS_PORT": "-1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "farthing.ledger", env=environ, stderr=asyncio.subprocess.PIPE
    )
    ledger = Running(process, ports)
    try:
        await eventually(ledger.serving, timeout_s=30, what="the ledger serving")
        yield ledger
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_what_was_acknowledged_survives_a_kill_and_a_stop_is_clean(
    tmp_path: Path, make_charge: Callable[..., Charge]
) -> None:
    ports = {name: free_port() for name in PORTS}
    request = ledger_pb2.RecordChargesRequest(charges=[codec.encode_charge(make_charge())])
    async with running(tmp_path, ports) as ledger:
        channel = open_channel(f"127.0.0.1:{ports['PORT']}")
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        first = await stub.RecordCharges(request)
        assert list(first.outcomes) == [ledger_pb2.RECORD_OUTCOME_RECORDED]
        ledger.process.send_signal(signal.SIGKILL)
        await ledger.process.wait()
        await channel.close()
    async with running(tmp_path, ports) as ledger:
        channel = open_channel(f"127.0.0.1:{ports['PORT']}")
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        again = await stub.RecordCharges(request)
        assert list(again.outcomes) == [ledger_pb2.RECORD_OUTCOME_DUPLICATE]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.QuerySpend(
                ledger_pb2.QuerySpendRequest(), metadata=outgoing_metadata(None, "fk-x")
            )
        assert isinstance(decode_error(caught.value), Unavailable)
        await channel.close()
        async with aiohttp.ClientSession() as session:
            async with session.get(
                f"http://127.0.0.1:{ports['CONSOLE_PORT']}/", allow_redirects=False
            ) as page:
                assert page.status == 303
            async with session.post(
                f"http://127.0.0.1:{ports['OTLP_HTTP_PORT']}/v1/traces",
                data=ExportTraceServiceRequest().SerializeToString(),
                headers={"Content-Type": "application/x-protobuf"},
            ) as taken:
                assert taken.status == 200
        ledger.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(ledger.process.wait(), 20) == 0


async def test_a_taken_port_is_told_with_the_setting_to_change(tmp_path: Path) -> None:
    ports = {name: free_port() for name in PORTS}
    async with running(tmp_path / "first", ports):
        mixed = {name: free_port() for name in PORTS} | {"CONSOLE_PORT": ports["CONSOLE_PORT"]}
        with pytest.raises(AssertionError, match="FARTHING_CONSOLE_PORT"):
            async with running(tmp_path / "second", mixed):
                pass
