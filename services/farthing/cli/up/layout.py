"""Where everything stands when the suite runs on one machine: folders, loopback addresses, ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from farthing.kit.errors import FailedPrecondition, InvalidArgument

EDGE_REGION = "edge-site"
CLOUD_REGION = "cloud-a"

# Ports by purpose; the same numbers serve both regions, on addresses of their own.
DEFAULT_PORTS: Mapping[str, int] = {
    "gateway": 8080,
    "console": 8090,
    "router": 50051,
    "cache": 50052,
    "quota": 50053,
    "ledger": 50054,
    "otlp-grpc": 4317,
    "otlp-http": 4318,
    "edge": 50061,
    "cloud": 50062,
    "consul": 8500,
    "consul-rpc": 8300,
    "consul-lan": 8301,
    "consul-wan": 8302,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Addresses, ports and folders of one suite."""

    assets: Path
    """Holds demo/ (prices, policies) and demo-models/."""
    state: Path
    """Where logs, data and the env file go; build/run by default."""
    network: str = "127.0"
    """First two parts of the loopback addresses: .0.1 is for clients and the edge site, .1.1 and .2.1 for Consul."""
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))

    @property
    def edge_host(self) -> str:
        """Where the edge site's services listen, and clients call."""
        return f"{self.network}.0.1"

    @property
    def edge_consul_host(self) -> str:
        """Where the edge site's Consul listens."""
        return f"{self.network}.1.1"

    @property
    def cloud_host(self) -> str:
        """Where the cloud region's services and its Consul listen."""
        return f"{self.network}.2.1"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.state / "logs"

    @property
    def data(self) -> Path:
        """What survives a restart."""
        return self.state / "data"

    @property
    def env_file(self) -> Path:
        """Addresses and keys for other programs, readable by the owner alone."""
        return self.state / "env"

    @property
    def report_file(self) -> Path:
        """What the demo's prompts cost: run.json beside the state folder."""
        return self.state.with_name(f"{self.state.name}.json")

    def address(self, purpose: str) -> str:
        """host:port of one of the edge site's services."""
        return f"{self.edge_host}:{self.ports[purpose]}"


def parse_ports(texts: tuple[str, ...]) -> dict[str, int]:
    """DEFAULT_PORTS with purpose=port changes. InvalidArgument on anything else."""
    ports = dict(DEFAULT_PORTS)
    for text in texts:
        purpose, _, number = text.partition("=")
        if purpose not in ports or not number.isdigit() or not 1 <= int(number) <= 65535:
            raise InvalidArgument(
                f"--port {text}: write purpose=port with one of {', '.join(ports)}",
                field="port",
            )
        ports[purpose] = int(number)
    return ports


def find_assets(start: Path) -> Path:
    """The deploy/ folder of the checkout that `start` is in. FailedPrecondition outside of one."""
    for folder in (start, *start.parents):
        if (folder / "deploy" / "demo" / "prices" / "current.json").is_file():
            return folder / "deploy"
    raise FailedPrecondition(
        "`farthing up` needs a checkout's deploy/ folder with prices and models; "
        "change into the checkout, or give --assets",
        reason="ASSETS_MISSING",
    )
