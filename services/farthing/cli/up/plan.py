"""Which processes make up the suite, what each is told, and how it is seen to be well."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from farthing.cli.settings_catalogue import all_names, find_class
from farthing.cli.up.layout import CLOUD_REGION, EDGE_REGION, Layout
from farthing.kit.discovery.agent import AgentPlan, prepare_agent
from farthing.kit.errors import FailedPrecondition
from farthing.kit.settings import PREFIX, SettingsError, describe

ProbeKind = Literal["grpc", "http", "consul"]

# What stops first: entrances, then the way in, then what it leads to, then discovery.
_STAGES: Mapping[str, int] = {"gateway": 0, "router": 1, "consul": 3}
_OTHERS_STAGE = 2


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that a process will open."""

    host: str
    port: int
    purpose: str


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """One process of the suite."""

    name: str
    """Unique, e.g. edge-site-quota."""
    command: tuple[str, ...]
    environ: Mapping[str, str]
    probe: ProbeKind
    address: str
    """What the probe asks, host:port."""
    listeners: tuple[Listener, ...]
    stage: int
    """Processes of a lower stage stop first."""


def plan_agents(layout: Layout) -> tuple[AgentPlan, AgentPlan]:
    """The two datacenters' Consul servers; each joins the other."""
    ports = {
        "http_port": layout.ports["consul"],
        "rpc_port": layout.ports["consul-rpc"],
        "serf_lan_port": layout.ports["consul-lan"],
        "serf_wan_port": layout.ports["consul-wan"],
    }
    edge, cloud = layout.edge_consul_host, layout.cloud_host
    wan_port = ports["serf_wan_port"]
    folder = layout.data / "consul"
    return (
        AgentPlan(EDGE_REGION, edge, folder / EDGE_REGION, (f"{cloud}:{wan_port}",), **ports),
        AgentPlan(CLOUD_REGION, cloud, folder / CLOUD_REGION, (f"{edge}:{wan_port}",), **ports),
    )


def plan_consul(program: Path, agent: AgentPlan, environ: Mapping[str, str]) -> ChildPlan:
    """The process of one Consul server; writes its configuration."""
    return ChildPlan(
        name=f"{agent.datacenter}-consul",
        command=tuple(prepare_agent(program, agent)),
        environ=_without_ours(environ),
        probe="consul",
        address=agent.url,
        listeners=tuple(list_agent_listeners((agent,))),
        stage=_STAGES["consul"],
    )


def plan_services(
    layout: Layout, *, admin_key: str, environ: Mapping[str, str]
) -> tuple[ChildPlan, ...]:
    """Every service process. `environ` may hold settings of the user's, which go to the services that know them.

    SettingsError on a FARTHING_ name nobody knows, FailedPrecondition when a model is missing.
    """
    known = all_names()
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(
                f"{name} is not a setting of any service; unset it, or see `farthing config`",
                env=name,
            )
    models = layout.assets / "demo-models"
    plans = [
        _plan(
            layout,
            environ,
            "quota",
            EDGE_REGION,
            {"FARTHING_QUOTA_BOOTSTRAP_ADMIN_KEY": admin_key},
        ),
        _plan(
            layout,
            environ,
            "ledger",
            EDGE_REGION,
            {
                "FARTHING_CONSOLE_PORT": str(layout.ports["console"]),
                "FARTHING_OTLP_GRPC_PORT": str(layout.ports["otlp-grpc"]),
                "FARTHING_OTLP_HTTP_PORT": str(layout.ports["otlp-http"]),
            },
        ),
        _plan(layout, environ, "cache", EDGE_REGION, {}),
        _plan(
            layout,
            environ,
            "edge",
            EDGE_REGION,
            _model(
                environ, "EDGE", models / "edge-small" / "edge-small-q8_0.gguf", "edge-small"
            ),
        ),
        _plan(
            layout,
            environ,
            "cloud",
            CLOUD_REGION,
            _model(environ, "CLOUD", models / "cloud-large", "cloud-large"),
        ),
        _plan(layout, environ, "router", EDGE_REGION, {}),
        _plan(layout, environ, "router", CLOUD_REGION, {}),
        _plan(layout, environ, "gateway", EDGE_REGION, {}),
    ]
    return tuple(plans)


def list_agent_listeners(agents: Iterable[AgentPlan]) -> list[Listener]:
    """Every port that Consul will open."""
    return [
        Listener(agent.address, port, f"Consul {purpose}")
        for agent in agents
        for purpose, port in agent.ports.items()
    ]


def list_listeners(plans: Iterable[ChildPlan]) -> list[Listener]:
    """Every port that the suite will open."""
    return [listener for plan in plans for listener in plan.listeners]


def _plan(
    layout: Layout,
    environ: Mapping[str, str],
    service: str,
    region: str,
    own: Mapping[str, str],
) -> ChildPlan:
    host = layout.edge_host if region == EDGE_REGION else layout.cloud_host
    consul_host = layout.edge_consul_host if region == EDGE_REGION else layout.cloud_host
    port = layout.ports[service]
    planned = {
        "FARTHING_HOST": host,
        "FARTHING_PORT": str(port),
        "FARTHING_METRICS_PORT": "0",
        "FARTHING_ADVERTISE_ADDRESS": f"{host}:{port}",
        "FARTHING_REGION": region,
        "FARTHING_INSTANCE_ID": f"{region}-{service}",
        "FARTHING_DATA_DIR": str(layout.data / region),
        "FARTHING_CONSUL_URL": f"http://{consul_host}:{layout.ports['consul']}",
        "FARTHING_OTLP_ENDPOINT": f"http://{layout.address('otlp-grpc')}",
        **own,
    }
    if region == EDGE_REGION and service != "gateway":
        # Within the site neighbours skip TCP; between the regions it stays what it would be.
        planned["FARTHING_UNIX_SOCKET"] = str(layout.data / region / f"{service}.sock")
    # What the user set for a service, e.g. FARTHING_LOG_LEVEL, reaches it unless it is part of the plan. Addresses
    # that an earlier run's env file holds are dropped: inside the suite, services are found by discovery.
    dropped = {"FARTHING_QUOTA_ADDRESS", "FARTHING_CACHE_ADDRESS", "FARTHING_LEDGER_ADDRESS"}
    settable = {info.env for info in describe(find_class(service))} - dropped
    users = {name: value for name, value in environ.items() if name in settable}
    metrics_port = 9400 + port % 100
    listeners = [
        Listener(host, port, service),
        Listener(host, metrics_port, f"{service} metrics"),
    ]
    if service == "ledger":
        listeners += [
            Listener(host, layout.ports[purpose], purpose)
            for purpose in ("console", "otlp-grpc", "otlp-http")
        ]
    return ChildPlan(
        name=f"{region}-{service}",
        command=(sys.executable, "-m", f"farthing.{service}"),
        environ={
            **_without_ours(environ),
            **users,
            **planned,
            # ONNX Runtime collects usage data unless told otherwise.
            "ORT_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
        },
        probe="http" if service == "gateway" else "grpc",
        address=f"{host}:{port}",
        listeners=tuple(listeners),
        stage=_STAGES.get(service, _OTHERS_STAGE),
    )


def _model(environ: Mapping[str, str], tier: str, path: Path, name: str) -> dict[str, str]:
    variable = f"FARTHING_{tier}_MODEL"
    if environ.get(variable):
        return {}  # the user's model; it reaches the service as every setting of the user's does
    if not path.exists():
        raise FailedPrecondition(
            f"the demo model {path} is missing; run `make models`, or set {variable} to a model of yours",
            reason="MODEL_MISSING",
            metadata={"path": str(path)},
        )
    planned = {variable: str(path), f"{variable}_NAME": name}
    threads = f"FARTHING_{tier}_THREADS"
    if not environ.get(threads):
        # The demo's models are too small for more, and threads that meet at the end of each part of a step wait for
        # whichever of the suite's other processes has a core: with one per core on 2 cores a step took 6 to 20 times as
        # long, and answers reached their limit of device time.
        planned[threads] = "1"
    return planned


def _without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
