"""Starts the service of one stored model for as long as it is measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from farthing.api.inference.v1 import inference_pb2, inference_pb2_grpc
from farthing.cli.settings_catalogue import find_class
from farthing.inference.store import StoredModel
from farthing.kit.errors import FailedPrecondition
from farthing.kit.rpc.channel import open_channel
from farthing.kit.settings import PREFIX, describe

_TIERS = {"gguf": "edge", "onnx": "cloud"}
_START_S = 600.0
_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class HostedModel:
    """A service of one model. `address` is a socket of this machine."""

    tier: str
    address: str
    process_id: int

    def memory_bytes(self) -> int:
        """The most memory it had at any time so far, file pages in use included; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process_id}/status").read_text(encoding="ascii")
        except OSError:
            return 0
        found = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


@asynccontextmanager
async def host_model(model: StoredModel, data_dir: Path) -> AsyncIterator[HostedModel]:
    """The model's tier serving it, with the settings of this environment; stopped in the end.

    FailedPrecondition with the service's last line when it does not start.
    """
    tier = _TIERS[model.format]
    with tempfile.TemporaryDirectory(prefix="farthing-") as folder:
        log, socket = Path(folder) / "log", Path(folder) / "socket"
        environment = {
            **_settings_for(tier),
            "FARTHING_DATA_DIR": str(data_dir),
            f"FARTHING_{tier.upper()}_MODEL": model.name,
            "FARTHING_HOST": "127.0.0.1",
            "FARTHING_PORT": "0",
            "FARTHING_METRICS_PORT": "-1",
            "FARTHING_UNIX_SOCKET": str(socket),
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"farthing.{tier}"),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            hosted = HostedModel(tier, f"unix:{socket}", process.pid)
            await _wait_until_ready(hosted, process, log)
            yield hosted
        finally:
            await _stop(process)


def _settings_for(tier: str) -> dict[str, str]:
    """This environment with the settings that the tier knows, but for discovery and traces: it is nobody's instance."""
    left_out = {"FARTHING_CONSUL_URL", "FARTHING_REGISTRY_FILE", "FARTHING_OTLP_ENDPOINT"}
    left_out |= {f"FARTHING_TLS_{part}_FILE" for part in ("CERT", "KEY", "CA")}
    known = {info.env for info in describe(find_class(tier))} - left_out
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(PREFIX) or name in known
    }


async def _wait_until_ready(
    hosted: HostedModel, process: asyncio.subprocess.Process, log: Path
) -> None:
    async def ask() -> None:
        async with open_channel(hosted.address) as channel:
            await inference_pb2_grpc.InferenceServiceStub(channel).ListModels(
                inference_pb2.ListModelsRequest(), timeout=_START_S, wait_for_ready=True
            )

    asking = asyncio.ensure_future(ask())
    ending = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            last_line = await asyncio.to_thread(_read_last_line, log)
            raise FailedPrecondition(
                f"the {hosted.tier} service did not start: {last_line or 'no message'}",
                reason="SERVICE_NOT_STARTED",
                metadata={"service": hosted.tier},
            )
        await asking
    except grpc.aio.AioRpcError as error:
        raise FailedPrecondition(
            f"the {hosted.tier} service did not answer in {_START_S:.0f} s ({error.details()})",
            reason="SERVICE_NOT_STARTED",
            metadata={"service": hosted.tier},
        ) from None
    finally:
        for task in (asking, ending):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await task


def _read_last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
