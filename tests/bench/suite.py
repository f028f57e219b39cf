"""The services around a router, as processes: what each benchmark of the router needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import grpc
from tests.bench.processes import answers_http, running, write_json

from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.kit.discovery.nearby import META_BOOT, META_UNIX, boot_id
from farthing.kit.testing import free_port

ADMIN = "fk-bench-admin-bench-admin-bench-admin"
PRICES = {
    "version": "bench-1",
    "deployments": [
        {
            "compute": {"nano_usd_per_hour": 36_000_000},
            "energy": {"power_mw": 15_000, "nano_usd_per_kwh": 300_000_000},
        }
    ],
    "links": [{"from": "*", "to": "*", "nano_usd_per_gb": 1_000_000}],
    "cache": {"lookup_nano_usd": 50},
}


@dataclass(frozen=True, slots=True)
class Suite:
    """Addresses and processes. `router_plain` has tracing off."""

    router: Popen[bytes]
    router_address: str
    router_plain: Popen[bytes]
    router_plain_address: str
    echo: Popen[bytes]
    echo_address: str
    backend: Popen[bytes]
    backend_address: str
    gateway: Popen[bytes]
    gateway_address: str
    quota: Popen[bytes]
    cache: Popen[bytes]
    ledger: Popen[bytes]
    key: str
    environment: Mapping[str, str]


@contextmanager
def suite(work: Path) -> Iterator[Suite]:
    """Start echo, instant engine, quota, cache, ledger and two routers and a gateway."""
    address = {name: f"127.0.0.1:{free_port()}" for name in _NAMES}
    write_json(work / "documents" / "prices" / "current.json", PRICES)
    registry = write_json(
        work / "registry.json",
        {
            "instances": [
                {
                    "id": name,
                    "service": service,
                    "address": address[name],
                    "region": "local",
                    # One site on one machine, as `farthing up` runs it: neighbours meet at their sockets.
                    "meta": {META_UNIX: str(work / f"{name}.sock"), META_BOOT: boot_id()},
                }
                for name, service in (
                    ("quota", "quota"),
                    ("cache", "cache"),
                    ("ledger", "ledger"),
                    ("backend", "infer-edge"),
                )
            ]
        },
    )
    common = {
        "FARTHING_REGISTRY_FILE": str(registry),
        "FARTHING_DOCUMENTS_DIR": str(work / "documents"),
        "FARTHING_LOG_LEVEL": "warning",
    }
    otlp = f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:

        def start(
            name: str, module: str, ready: Callable[[], bool] | None = None, **env: str
        ) -> Popen[bytes]:
            data = {"FARTHING_DATA_DIR": str(work / "data" / name)} if module[0] == "f" else {}
            nearby = {"FARTHING_UNIX_SOCKET": str(work / f"{name}.sock")}
            settings = {**(common if module[0] == "f" else {}), **data, **nearby, **env}
            log = work / "logs" / f"{name}.log"
            return stack.enter_context(
                running(module, address[name], settings, log=log, ready=ready)
            )

        echo = start("echo", "tests.bench.echo_server")
        backend = start("backend", "tests.bench.instant_inference")
        quota = start("quota", "farthing.quota", FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY=ADMIN)
        cache = start("cache", "farthing.cache")
        ledger = start(
            "ledger",
            "farthing.ledger",
            FARTHING_OTLP_GRPC_PORT=otlp.split(":")[1],
            FARTHING_OTLP_HTTP_PORT=str(free_port()),
            FARTHING_CONSOLE_PORT=str(free_port()),
        )
        router = start("router", "farthing.router", FARTHING_OTLP_ENDPOINT=f"http://{otlp}")
        plain = start("plain", "farthing.router")
        gateway = start(
            "gateway",
            "farthing.gateway",
            ready=lambda: answers_http(f"http://{address['gateway']}/healthz"),
            FARTHING_ROUTER_ADDRESS=address["router"],
            FARTHING_OTLP_ENDPOINT=f"http://{otlp}",
        )
        yield Suite(
            router, address["router"], plain, address["plain"], echo, address["echo"],
            backend, address["backend"], gateway, address["gateway"], quota, cache, ledger,
            make_key(address["quota"]), common,
        )  # fmt: skip


def make_key(quota_address: str) -> str:
    """A key without limits."""
    with grpc.insecure_channel(quota_address) as channel:
        response = quota_pb2_grpc.QuotaServiceStub(channel).CreateKey(
            quota_pb2.CreateKeyRequest(name="bench", organisation_id="bench"),
            metadata=(("authorization", f"Bearer {ADMIN}"),),
        )
        return response.secret


_NAMES = ("echo", "backend", "quota", "cache", "ledger", "router", "plain", "gateway")
