"""Starts services as processes of their own and reads what CPU and memory they use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]


@contextmanager
def running(
    module: str, address: str, env: Mapping[str, str], *, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module` until the block ends; yields once its health says SERVING."""
    host, port = address.split(":")
    # Settings of ours in the caller's environment must not leak into what is measured.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FARTHING_")}
    settings = {"FARTHING_HOST": host, "FARTHING_PORT": port, "FARTHING_METRICS_PORT": "-1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**clean, **settings, **env, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    try:
        wait_serving(address, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_serving(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when health says SERVING; RuntimeError with the log's end if the process dies or takes 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with grpc.insecure_channel(address) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
                if check(health_pb2.HealthCheckRequest(), timeout=1).status == 1:
                    return
        except grpc.RpcError:
            time.sleep(0.02)
    raise RuntimeError(f"no health at {address}:\n{log.read_text()[-2000:]}")


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far, from the scheduler's nanosecond counters."""
    total_ns = 0
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(stat.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
            continue
    return total_ns / 1e9


def rss_mib(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def write_json(path: Path, content: object) -> Path:
    """Write a configuration file; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
