"""How fast a model moves, from disk, web and node, on loopback: `python -m tests.bench.model_store`."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from tests.support.file_server import FileServer
from tests.support.node_process import start_node

from farthing.inference.store import ModelStore
from farthing.inference.store.nodes import parse_nodes

_ROW_VALUES = 8_192


def write_model(path: Path, size_mb: int) -> None:
    """A GGUF file of random weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("big")
    writer.add_context_length(512)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.0, 0.0])
    rows = max(1, size_mb * 1_000_000 // (4 * _ROW_VALUES))
    draw = np.random.default_rng(1)
    weights = draw.standard_normal((rows, _ROW_VALUES), np.float32)
    writer.add_tensor("token_embd.weight", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def show(label: str, size_bytes: int, work: Callable[[], object]) -> None:
    """Runs the work once and prints its time and rate."""
    started_s = time.perf_counter()
    work()
    took_s = time.perf_counter() - started_s
    print(f"| {label} | {took_s:.1f} s | {size_bytes / took_s / 1e6:,.0f} |", flush=True)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=500)
    size_mb: int = parser.parse_args().size_mb
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "big.gguf"
        write_model(source, size_mb)
        size_bytes = source.stat().st_size
        print(f"| {size_bytes / 1e6:.0f} MB | time | MB/s |\n|---|---|---|")
        first = ModelStore(folder / "first")
        show("add from disk", size_bytes, lambda: first.add(source, "big"))
        show("verify", size_bytes, first.verify)
        with FileServer() as server:
            server.serve("big.gguf", source.read_bytes())
            url = server.url("big.gguf")
            show(
                "add from the web", size_bytes, lambda: ModelStore(folder / "b").add(url, "big")
            )
        with start_node(folder / "first") as address:
            nodes = parse_nodes([address])
            show(
                "fetch from a node",
                size_bytes,
                lambda: ModelStore(folder / "c").fetch("big", nodes),
            )


if __name__ == "__main__":
    main()
