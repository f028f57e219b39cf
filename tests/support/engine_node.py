"""Real engine services with a quota process that knows the administrator's key, and what to ask of them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from farthing.api.inference.v1 import inference_pb2 as pb
from farthing.api.inference.v1 import inference_pb2_grpc as pb_grpc
from farthing.api.models.v1 import models_pb2, models_pb2_grpc
from farthing.inference.store import ModelStore
from farthing.kit.rpc.channel import outgoing_metadata
from farthing.kit.testing import free_port

ADMIN_KEY = "fk-" + "z" * 32
AS_ADMIN = outgoing_metadata(None, ADMIN_KEY)
START_S = 90.0


@contextmanager
def run_quota(folder: Path) -> Iterator[Path]:
    """A quota process as long as the block runs; the registry file that names it."""
    port = free_port()
    registry = folder / "registry.json"
    listed = {
        "id": "quota-1",
        "service": "quota",
        "address": f"127.0.0.1:{port}",
        "region": "home",
    }
    registry.write_text(json.dumps({"instances": [listed]}), encoding="utf-8")
    environ = {
        "FARTHING_DATA_DIR": str(folder),
        "FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY": ADMIN_KEY,
    }
    process = _start("farthing.quota", port, environ)
    try:
        yield registry
    finally:
        process.kill()
        process.wait()


@dataclass(eq=False, slots=True)
class EngineNode:
    """One process of a tier, edge or cloud, with its store; `models` and `inference` are stubs."""

    tier: str
    data_dir: Path
    port: int
    environ: dict[str, str]
    process: subprocess.Popen[bytes]
    models: Any = None
    inference: Any = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.data_dir / "models")

    async def ready(self) -> None:
        """Returns when it answers; AssertionError when it ends instead."""
        call = asyncio.ensure_future(self.names(timeout_s=START_S))
        while not call.done():
            assert self.process.poll() is None, f"the {self.tier} process ended"
            await asyncio.wait([call], timeout=0.2)
        await call

    async def names(self, *, timeout_s: float = 10.0) -> list[str]:
        """The models that it serves."""
        listed = await self.inference.ListModels(
            pb.ListModelsRequest(), timeout=timeout_s, wait_for_ready=True
        )
        return [model.name for model in listed.models]

    async def ask(self, model: str, *, max_tokens: int = 12) -> str:
        """A greedy answer."""
        given = pb.GenerationInput(prompt="hello", max_tokens=max_tokens)
        request = pb.CompleteRequest(request=pb.GenerateRequest(model=model, input=given))
        answer = await self.inference.Complete(request, timeout=60)
        text: str = answer.text
        return text

    async def load(
        self, model: str, name: str = "", **more: Any
    ) -> models_pb2.LoadModelResponse:
        """As an administrator."""
        request = models_pb2.LoadModelRequest(model=model, name=name, **more)
        response: models_pb2.LoadModelResponse = await self.models.LoadModel(
            request, metadata=AS_ADMIN, timeout=120
        )
        return response

    async def unload(self, name: str) -> None:
        """As an administrator."""
        request = models_pb2.UnloadModelRequest(name=name)
        await self.models.UnloadModel(request, metadata=AS_ADMIN, timeout=60)

    def engine_count(self) -> int:
        """Engine processes that it has now."""
        module = f"farthing.{self.tier}.engine"
        return sum(module in line for line in _child_commands(self.process.pid))

    def kill(self) -> None:
        """SIGKILL, as a loss of power."""
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """At the same address, with the same store."""
        self.process = _start(f"farthing.{self.tier}", self.port, self.environ)


@asynccontextmanager
async def run_node(
    tier: str, data_dir: Path, registry: Path, model: Path | str, **settings: str
) -> AsyncIterator[EngineNode]:
    """A node that serves a model and answers; ended with SIGTERM, to which it must give in cleanly."""
    port, own = free_port(), f"FARTHING_{tier.upper()}"
    environ = {
        "FARTHING_DATA_DIR": str(data_dir),
        "FARTHING_REGISTRY_FILE": str(registry),
        "FARTHING_REGION": "home",
        f"{own}_MODEL": str(model),
        f"{own}_THREADS": "1",
        f"{own}_CONTEXT": "256",
        **settings,
    }
    process = _start(f"farthing.{tier}", port, environ)
    node = EngineNode(tier, data_dir, port, environ, process)
    try:
        # A node that starts again is found soon, not after gRPC's growing pauses.
        options = [("grpc.max_reconnect_backoff_ms", 500)]
        async with grpc.aio.insecure_channel(node.address, options) as channel:
            node.models = models_pb2_grpc.ModelsServiceStub(channel)
            node.inference = pb_grpc.InferenceServiceStub(channel)
            await node.ready()
            yield node
        node.process.terminate()
        assert await asyncio.to_thread(node.process.wait, 20) == 0
    finally:
        if node.process.poll() is None:
            node.kill()


def _start(module: str, port: int, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FARTHING_")}
    return subprocess.Popen(
        [sys.executable, "-m", module],
        env={
            **kept,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "FARTHING_PORT": str(port),
            "FARTHING_METRICS_PORT": "-1",
            **environ,
        },
        stderr=subprocess.DEVNULL,
    )


def _child_commands(process_id: int) -> list[str]:
    """The command lines of a process's children."""
    commands = []
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                commands.append(Path(f"/proc/{child}/cmdline").read_text())
            except OSError:  # it has just ended
                continue
    return commands
