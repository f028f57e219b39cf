"""Starts services as processes of their own and reads what CPU and memory they use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]


class NotReady(Exception):
    """A process ended, or its time was over, before it was ready; the message has its log's end."""


@contextmanager
def running(
    module: str,
    address: str,
    env: Mapping[str, str],
    *,
    log: Path,
    ready: Callable[[], bool] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python -m module` until the block ends; yields once `ready`, or else its health, says so."""
    host, port = address.split(":")
    settings = {
        "FARTHING_HOST": host,
        "FARTHING_PORT": port,
        "FARTHING_METRICS_PORT": "-1",
        "PYTHONPATH": str(ROOT),
    }
    with started(
        [sys.executable, "-m", module],
        {**settings, **env},
        log=log,
        ready=ready or (lambda: serves_grpc(address)),
    ) as process:
        yield process


@contextmanager
def started(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    log: Path,
    ready: Callable[[], bool],
    wait_s: float = 30.0,
    cwd: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; NotReady if it does not get ready in time."""
    # Settings of ours in the caller's environment must not leak into what is measured.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FARTHING_")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**clean, **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
        )
    try:
        deadline = time.monotonic() + wait_s
        while not ready():
            if time.monotonic() > deadline or process.poll() is not None:
                raise NotReady(
                    f"{' '.join(command[:3])} is not ready:\n{log.read_text()[-2000:]}"
                )
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serves_grpc(address: str) -> bool:
    """True when the health service there says SERVING."""
    try:
        with grpc.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
            return bool(check(health_pb2.HealthCheckRequest(), timeout=1).status == 1)
    except grpc.RpcError:
        return False


def answers_http(url: str) -> bool:
    """True when a GET there gives status 200."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=2)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


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
