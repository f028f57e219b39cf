"""Neighbours on one machine reach each other by socket file; everybody else by host and port."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farthing.kit.discovery import Instance, dial_address, place_of
from farthing.kit.discovery.nearby import META_BOOT, META_UNIX, boot_id
from farthing.kit.errors import Unavailable
from farthing.kit.rpc.channel import open_channel
from farthing.kit.rpc.server import RpcServer
from farthing.kit.telemetry.metrics import Metrics
from farthing.kit.telemetry.spans import NullRecorder


def instance(path: Path, boot: str) -> Instance:
    meta = {META_UNIX: str(path), META_BOOT: boot}
    return Instance("quota-1", "quota", "10.0.0.1:50053", "site", meta=meta)


def server(path: Path) -> RpcServer:
    metrics = Metrics("test")
    return RpcServer(
        "127.0.0.1:0", recorder=NullRecorder(), metrics=metrics, drain_ms=0, unix_socket=path
    )


async def test_a_neighbour_is_called_by_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "quota.sock"
    serving = server(path)
    await serving.start()
    await serving.set_serving()
    target = dial_address(instance(path, boot_id()))
    assert target == f"unix:{path}"
    assert path.stat().st_mode & 0o077 == 0
    async with open_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        response = await check(health_pb2.HealthCheckRequest(), timeout=10)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    await serving.stop()
    assert dial_address(instance(path, boot_id())) == "10.0.0.1:50053"


async def test_an_instance_of_another_machine_is_called_by_host_and_port(
    tmp_path: Path,
) -> None:
    path = tmp_path / "quota.sock"
    path.touch()
    assert dial_address(instance(path, "another boot")) == "10.0.0.1:50053"


async def test_a_socket_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="FARTHING_UNIX_SOCKET"):
        await server(tmp_path / ("x" * 120 + ".sock")).start()


async def test_a_place_stays_the_same_while_a_service_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "quota.sock"
    before = place_of(instance(path, boot_id()))
    path.touch()
    assert place_of(instance(path, boot_id())) == before
    assert place_of(Instance("quota-1", "quota", "10.0.0.1:50053", "site")) != before
