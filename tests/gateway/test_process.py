"""The gateway as a process: it starts from its environment and SIGTERM lets open streams end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from tests.gateway.conftest import KEY, ScriptedRouter

from farthing.api.router.v1 import router_pb2_grpc
from farthing.kit.testing import eventually, free_port, serve


def environment(port: int, router_address: str, folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name[:9] != "FARTHING_"}
    return kept | {
        "FARTHING_PORT": str(port),
        "FARTHING_METRICS_PORT": "-1",
        "FARTHING_ROUTER_ADDRESS": router_address,
        "FARTHING_DATA_DIR": str(folder),
    }


async def healthy(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(f"{url}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


@pytest.mark.e2e
async def test_sigterm_drains_an_open_stream_and_exits_cleanly(tmp_path: Path) -> None:
    router, port = ScriptedRouter(), free_port()
    registered = (router_pb2_grpc.add_RouterServiceServicer_to_server, router)
    url = f"http://127.0.0.1:{port}"
    async with serve(registered) as (_, address), aiohttp.ClientSession() as session:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "farthing.gateway", env=environment(port, address, tmp_path)
        )
        try:
            await eventually(lambda: healthy(session, url), timeout_s=30)
            router.gate.clear()
            response = await session.post(
                f"{url}/v1/chat/completions",
                json={
                    "model": "auto",
                    "stream": True,
                    "messages": [{"role": "user", "content": "Hi"}],
                },
                headers={"authorization": f"Bearer {KEY}"},
            )
            await response.content.readany()
            process.send_signal(signal.SIGTERM)

            async def gone() -> bool:
                async with aiohttp.ClientSession() as other:
                    return not await healthy(other, url)

            await eventually(gone, timeout_s=30)
            router.gate.set()
            assert b"[DONE]" in await response.read()
            assert await asyncio.wait_for(process.wait(), 30) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.e2e
async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    holder = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = holder.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "farthing.gateway",
        env=environment(port, "127.0.0.1:1", tmp_path),
        stderr=asyncio.subprocess.PIPE,
    )
    _, error = await asyncio.wait_for(process.communicate(), 30)
    holder.close()
    await holder.wait_closed()
    assert process.returncode == 1
    assert b"FARTHING_PORT" in error
    assert b"Traceback" not in error
