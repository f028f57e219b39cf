"""A node of its own process that serves a model store: `python -m tests.support.node_process STORE` prints its port.

The administrator's key is "fk-admin". It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farthing.api.models.v1 import models_pb2_grpc
from farthing.inference.store import ModelStore
from farthing.inference.store.servicer import ModelsServicer, ServingLimits
from farthing.kit.errors import Unauthenticated
from farthing.kit.testing import serve

ADMIN_KEY = "fk-admin"


async def _require_admin(key_digest: bytes) -> None:
    if key_digest != hashlib.sha256(ADMIN_KEY.encode()).digest():
        raise Unauthenticated("unknown key", reason="KEY_INVALID")


async def main(root: Path) -> None:
    servicer = ModelsServicer(ModelStore(root), _require_admin, ServingLimits())
    register = models_pb2_grpc.add_ModelsServiceServicer_to_server
    async with serve((register, servicer)) as (_, address):
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def start_node(root: Path) -> Iterator[str]:
    """Runs a node as long as the block does; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.node_process", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
