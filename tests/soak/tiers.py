"""Both tiers as they ship, each alone on a tiny model made on the spot: many steps, and memory that shows a leak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.bench.processes import running
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora
from tests.support.tiny_onnx import save_model

from farthing.kit.testing import free_port

SLOT_COUNT = 8


@dataclass(frozen=True, slots=True)
class Tier:
    """A running service: its name, its addresses, and its process."""

    name: str
    address: str
    metrics_url: str
    pid: int

    def processes(self) -> dict[str, int]:
        """The service's process and its engine's, by name."""
        [engine] = psutil.Process(self.pid).children()
        return {f"{self.name} service": self.pid, f"{self.name} engine": engine.pid}


@contextmanager
def edge(work: Path) -> Iterator[Tier]:
    """The edge with an adapter and embeddings."""
    model = write_tiny_gguf(work / "tiny.gguf")
    write_tiny_lora(work / "lora.gguf")
    settings = {
        "FARTHING_EDGE_MODEL": str(model),
        "FARTHING_EDGE_SLOTS": str(SLOT_COUNT),
        "FARTHING_EDGE_THREADS": "2",  # the callers want the cores too: which count is soonest changes
        "FARTHING_EDGE_ADAPTERS": f"polite={work / 'lora.gguf'}",
        "FARTHING_EDGE_EMBEDDINGS_CONTEXT": "128",
    }
    with _serving("edge", work, settings) as tier:
        yield tier


@contextmanager
def cloud(work: Path) -> Iterator[Tier]:
    """The cloud tier on the CPU."""
    save_model(work / "tiny-onnx")
    settings = {
        "FARTHING_CLOUD_MODEL": str(work / "tiny-onnx"),
        "FARTHING_CLOUD_DEVICE": "cpu",
        "FARTHING_CLOUD_SLOTS": str(SLOT_COUNT),
        "FARTHING_CLOUD_THREADS": "1",
    }
    with _serving("cloud", work, settings) as tier:
        yield tier


@contextmanager
def _serving(name: str, work: Path, settings: dict[str, str]) -> Iterator[Tier]:
    address, metrics_port = f"127.0.0.1:{free_port()}", free_port()
    env = {
        **settings,
        "FARTHING_METRICS_PORT": str(metrics_port),
        "FARTHING_DATA_DIR": str(work / f"{name}-data"),
        "FARTHING_ENGINE_QUEUE": "24",
    }
    with running(f"farthing.{name}", address, env, log=work / f"{name}.log") as process:
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        yield Tier(name, address, url, process.pid)
