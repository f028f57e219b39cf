"""`farthing status`: who is there, how they are, how busy they are."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from farthing.api.common.v1 import common_pb2
from farthing.api.router.v1 import router_pb2, router_pb2_grpc
from farthing.cli.connection import call, connect, current_settings, require_key, run
from farthing.cli.output import enum_word, print_json, print_table, to_plain
from farthing.cli.settings import CliSettings

_HEALTH_TIMEOUT_S = 2.0
_STATE = router_pb2.InstanceState.DESCRIPTOR
_TIER = common_pb2.Tier.DESCRIPTOR


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show the services' health, and every instance as the router sees it."""
    settings = current_settings()
    key = require_key(settings, admin=False)
    health, view = run(_collect(settings, key))
    if as_json:
        print_json({"services": health, **to_plain(view)})
    else:
        print_table(
            ("service", "address", "health"),
            [(*row.split("@"), state) for row, state in health.items()],
        )
        click.echo()
        print_table(
            ("instance", "tier", "region", "models", "state", "running", "queued", "rtt"),
            [
                (
                    item.instance_id,
                    enum_word(_TIER, item.tier),
                    item.region,
                    ", ".join(item.models),
                    enum_word(_STATE, item.state),
                    f"{item.load.running_request_count}/{item.load.capacity_request_count}",
                    str(item.load.queued_request_count),
                    f"{item.rtt_us / 1000:.1f} ms",
                )
                for item in view.instances
            ],
            right=(5, 6, 7),
        )
        click.echo(f"\nview of discovery confirmed {view.view_age_ms / 1000:.1f} s ago")
    if any(state != "serving" for state in health.values()):
        raise click.exceptions.Exit(1)


async def check_health(settings: CliSettings, address: str) -> str:
    """ "serving", "not_serving", "unknown", or "unreachable"."""
    async with connect(settings, address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(
                channel
            )  # its types cover the blocking API alone
            response = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return "unreachable"
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return name.lower()


async def _collect(
    settings: CliSettings, key: str
) -> tuple[dict[str, str], router_pb2.ListInstancesResponse]:
    services = {
        f"router@{settings.router_address}": settings.router_address,
        f"quota@{settings.quota_address}": settings.quota_address,
        f"ledger@{settings.ledger_address}": settings.ledger_address,
    }
    states = await asyncio.gather(
        *(check_health(settings, address) for address in services.values())
    )
    async with connect(settings, settings.router_address) as channel:
        view = await call(
            router_pb2_grpc.RouterServiceStub(channel).ListInstances,
            router_pb2.ListInstancesRequest(),
            key=key,
            address=settings.router_address,
        )
    return dict(zip(services, states, strict=True)), view
