"""Launches Consul server agents on loopback: for `farthing up`, for tests and for single-site installations."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farthing.kit.discovery.consul import ConsulClient
from farthing.kit.errors import FailedPrecondition, FarthingError, Unavailable

_READ_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class AgentPlan:
    """One single-server datacenter on a loopback address of its own, so that default ports serve for all."""

    datacenter: str
    address: str
    """E.g. 127.0.1.1."""
    directory: Path
    """For configuration and data; made if missing."""
    join_wan: Sequence[str] = ()
    """Addresses of other datacenters' servers."""
    http_port: int = 8500
    rpc_port: int = 8300
    serf_lan_port: int = 8301
    serf_wan_port: int = 8302

    @property
    def url(self) -> str:
        """The agent's HTTP API."""
        return f"http://{self.address}:{self.http_port}"

    @property
    def ports(self) -> Mapping[str, int]:
        """What it listens on, by purpose."""
        return {
            "http": self.http_port,
            "server": self.rpc_port,
            "serf_lan": self.serf_lan_port,
            "serf_wan": self.serf_wan_port,
        }


def find_consul(environ: Mapping[str, str], start: Path) -> Path:
    """The Consul program: CONSUL_BIN, PATH, or .tools of `start` or a folder above it. FailedPrecondition if none."""
    named = environ.get("CONSUL_BIN", "")
    if named:
        if os.access(named, os.X_OK):
            return Path(named)
        raise FailedPrecondition(
            f"CONSUL_BIN={named} is no program; correct or unset it", reason="CONSUL_MISSING"
        )
    found = shutil.which("consul", path=environ.get("PATH"))
    if found:
        return Path(found)
    for folder in (start, *start.parents):
        candidate = folder / ".tools" / "consul" / "usr" / "bin" / "consul"
        if os.access(candidate, os.X_OK):
            return candidate
    raise FailedPrecondition(
        "Consul is not installed; run `make setup`, or set CONSUL_BIN to the program",
        reason="CONSUL_MISSING",
    )


def prepare_agent(program: Path, plan: AgentPlan) -> list[str]:
    """Write the agent's configuration and return the command that runs it."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    config_file = plan.directory / "agent.json"
    config_file.write_text(json.dumps(_configure(plan), indent=2), encoding="utf-8")
    return [str(program), "agent", "-config-file", str(config_file)]


async def wait_for_leader(url: str, *, timeout_s: float) -> None:
    """Return when the datacenter can write. Unavailable when it cannot in time."""
    client = ConsulClient(url)
    try:
        async with asyncio.timeout(timeout_s):
            await _poll(lambda: _has_leader(client))
    except TimeoutError:
        raise Unavailable(
            f"Consul at {url} has no leader after {timeout_s:g} s; see its log",
            reason="CONSUL_NOT_READY",
            metadata={"url": url},
        ) from None
    finally:
        await client.close()


async def wait_for_federation(
    url: str, datacenters: Sequence[str], *, timeout_s: float
) -> None:
    """Return when the agent at `url` can read all of `datacenters`. Unavailable when it cannot in time."""
    client = ConsulClient(url)
    try:
        async with asyncio.timeout(timeout_s):
            for datacenter in datacenters:
                await _poll(functools.partial(_can_read, client, datacenter))
    except TimeoutError:
        raise Unavailable(
            f"Consul at {url} does not reach {', '.join(datacenters)} after {timeout_s:g} s; see its log",
            reason="CONSUL_NOT_READY",
            metadata={"url": url},
        ) from None
    finally:
        await client.close()


async def _poll(ask: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await ask():
            return
        await asyncio.sleep(_READ_EVERY_S)


async def _has_leader(client: ConsulClient) -> bool:
    try:
        return bool((await client.get("/v1/status/leader", timeout_s=1.0)).body)
    except FarthingError:
        return False


async def _can_read(client: ConsulClient, datacenter: str) -> bool:
    try:
        answer = await client.get(
            "/v1/health/service/consul", params={"dc": datacenter}, timeout_s=1.0
        )
    except FarthingError:
        return False
    return bool(answer.body)


def _configure(plan: AgentPlan) -> dict[str, object]:
    return {
        "datacenter": plan.datacenter,
        "node_name": f"{plan.datacenter}-server",
        "data_dir": str(plan.directory / "data"),
        "bind_addr": plan.address,
        "client_addr": plan.address,
        "server": True,
        "bootstrap_expect": 1,
        # The default multiplier of 5 elects a leader after 7.5 s; 1 needs 1.7 s.
        "performance": {"raft_multiplier": 1},
        # The default of 5 s takes minutes to learn the distance between regions.
        "gossip_wan": {"probe_interval": "1s"},
        "retry_join_wan": list(plan.join_wan),
        "retry_interval_wan": "1s",
        "disable_update_check": True,
        "skip_leave_on_interrupt": True,
        "log_level": "warn",
        "ports": {**plan.ports, "dns": -1, "grpc": -1, "https": -1},
    }
