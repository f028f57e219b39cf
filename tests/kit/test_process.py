"""A service process: one line and exit code 1 on a wrong setting; ready, serving and gone on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farthing.kit.process import ServiceProcess, run_service
from farthing.kit.settings import ServiceSettings
from farthing.kit.testing import eventually, free_port

# The smallest service: it has no RPC of its own.
_PROGRAM = """
from __future__ import annotations
from farthing.kit.process import ServiceProcess, run_service
from farthing.kit.settings import ServiceSettings

async def main(settings: ServiceSettings, process: ServiceProcess) -> None:
    settings.resolve_data_dir("probe")
    await process.serve(process.server(), discovery_name="probe")

run_service("probe", ServiceSettings, main)
"""


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@contextmanager
def _running(data_dir: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARTHING_")}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "FARTHING_METRICS_PORT": "-1",
            "FARTHING_DATA_DIR": str(data_dir),
            **more,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _fetch(url: str) -> bytes:
    with urlopen(url, timeout=5) as response:
        body: bytes = response.read()
    return body


async def _health(port: int) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    status: int = response.status
    return status


async def _serving(port: int) -> bool:
    try:
        return await _health(port) == health_pb2.HealthCheckResponse.SERVING
    except grpc.aio.AioRpcError:
        return False


@pytest.mark.e2e
async def test_a_process_serves_says_so_and_ends_cleanly_when_told(tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    with _running(
        tmp_path, FARTHING_PORT=str(port), FARTHING_METRICS_PORT=str(metrics_port)
    ) as process:
        await eventually(lambda: _serving(port), timeout_s=30, what="the process serves")
        scraped = await asyncio.to_thread(_fetch, f"http://127.0.0.1:{metrics_port}/metrics")
        assert b"farthing_build_info" in scraped
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    said = [json.loads(line) for line in err.splitlines()]
    assert [line["message"] for line in said] == ["ready", "draining", "stopped"]
    assert {line["service"] for line in said} == {"probe"}
    assert said[0]["address"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("env", "value", "said"),
    [
        ("FARTHING_PORT", "http", "FARTHING_PORT='http' is not a valid integer"),
        ("FARTHING_PROT", "50051", "did you mean FARTHING_PORT?"),
        ("FARTHING_LOG_FORMAT", "xml", "FARTHING_LOG_FORMAT='xml' is unknown"),
        ("FARTHING_TLS_CERT_FILE", "/nowhere.pem", "FARTHING_TLS_CERT_FILE=/nowhere.pem"),
        ("FARTHING_DATA_DIR", "/dev/null", "FARTHING_DATA_DIR='/dev/null'"),
        ("FARTHING_REGISTRY_FILE", "/nowhere.json", "set FARTHING_REGISTRY_FILE"),
    ],
)
def test_a_wrong_setting_ends_with_one_line_and_exit_code_1(
    env: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main(settings: ServiceSettings, process: ServiceProcess) -> None:
        settings.resolve_data_dir("probe")

    for name in [name for name in os.environ if name.startswith("FARTHING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FARTHING_METRICS_PORT", "-1")
    monkeypatch.setenv("FARTHING_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(env, value)
    with pytest.raises(SystemExit) as caught:
        run_service("probe", ServiceSettings, main)
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("farthing probe: ")
    assert said in line


@pytest.mark.e2e
async def test_a_second_process_on_the_same_port_ends_with_one_line(tmp_path: Path) -> None:
    port = free_port()
    with _running(tmp_path, FARTHING_PORT=str(port)):
        await eventually(lambda: _serving(port), timeout_s=30, what="the first serves")
        with _running(tmp_path, FARTHING_PORT=str(port)) as second:
            _, err = second.communicate(timeout=30)
        assert second.returncode == 1
        line = err.splitlines()[-1]  # gRPC's own log may have something to say before
        assert line.startswith("farthing probe: cannot listen on")
        assert "set FARTHING_PORT" in line
        assert await _serving(port)


@pytest.mark.e2e
def test_a_wrong_setting_ends_the_process_also_while_it_exports_spans(tmp_path: Path) -> None:
    with _running(
        tmp_path,
        FARTHING_OTLP_ENDPOINT="http://127.0.0.1:9",
        FARTHING_TLS_KEY_FILE="/nowhere.pem",
    ) as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    (line,) = err.splitlines()
    assert "FARTHING_TLS_CERT_FILE is missing" in line
