"""`farthing keys`: API keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.quota.v1 import quota_pb2, quota_pb2_grpc
from farthing.cli.connection import call, connect, current_settings, require_key, run
from farthing.cli.limits import limit_options, make_limits
from farthing.cli.output import format_time, print_json, print_table, to_plain
from farthing.cli.settings import CliSettings


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. Needs an administrator's key."""


@keys.command()
@click.argument("name")
@click.option("--organisation", required=True, help="The tenant; made if new.")
@click.option("--cost-centre", default="", help='"default" when left out.')
@click.option("--team", default="", help='"default" when left out.')
@click.option("--policy", default="", help='Routing policy; "balanced" when left out.')
@click.option("--admin", is_flag=True, help="Let it call administrative RPCs.")
@click.option("--expires-in-days", type=click.IntRange(1), help="Ends by itself.")
@limit_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(
    name: str,
    organisation: str,
    cost_centre: str,
    team: str,
    policy: str,
    admin: bool,
    expires_in_days: int | None,
    budget_nano_usd: int | None,
    period: str,
    rpm: int | None,
    tpm: int | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and print its secret, this once."""
    expire_time = None
    if expires_in_days is not None:
        expire_time = Timestamp()
        expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=expires_in_days))
    request = quota_pb2.CreateKeyRequest(
        name=name,
        organisation_id=organisation,
        cost_centre_id=cost_centre,
        team_id=team,
        default_policy=policy,
        admin=admin,
        expire_time=expire_time,
        limits=make_limits(budget_nano_usd, period, rpm, tpm),
    )
    settings = current_settings()
    admin_key = require_key(settings, admin=True)

    async def work() -> quota_pb2.CreateKeyResponse:
        async with quota_stub(settings) as stub:
            return await call(
                stub.CreateKey, request, key=admin_key, address=settings.quota_address
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
        return
    click.echo(response.secret)
    click.echo(
        f"{response.key.key_id} for {response.key.principal.organisation_id}; "
        "the secret above is shown only now: keep it safe",
        err=True,
    )


@keys.command("list")
@click.option("--organisation", default="", help="Only this tenant's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_keys(organisation: str, as_json: bool) -> None:
    """List keys, newest first."""
    settings = current_settings()
    admin_key = require_key(settings, admin=True)

    async def work() -> quota_pb2.ListKeysResponse:
        async with quota_stub(settings) as stub:
            return await call(
                stub.ListKeys,
                quota_pb2.ListKeysRequest(organisation_id=organisation),
                key=admin_key,
                address=settings.quota_address,
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
        return
    print_table(
        ("key", "name", "secret", "owner", "admin", "made", "ends"),
        [
            (
                key.key_id,
                key.name,
                f"{key.secret_prefix}…",
                f"{key.principal.organisation_id}/{key.principal.cost_centre_id}/{key.principal.team_id}",
                "yes" if key.principal.admin else "",
                format_time(key.create_time),
                f"revoked {format_time(key.revoke_time)}"
                if key.HasField("revoke_time")
                else format_time(key.expire_time),
            )
            for key in response.keys
        ],
    )


@keys.command()
@click.argument("key_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke KEY_ID for ever; its next request is refused."""
    settings = current_settings()
    admin_key = require_key(settings, admin=True)

    async def work() -> quota_pb2.RevokeKeyResponse:
        async with quota_stub(settings) as stub:
            return await call(
                stub.RevokeKey,
                quota_pb2.RevokeKeyRequest(key_id=key_id),
                key=admin_key,
                address=settings.quota_address,
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
    else:
        click.echo(f"{key_id} is revoked")


@asynccontextmanager
async def quota_stub(
    settings: CliSettings,
) -> AsyncIterator[quota_pb2_grpc.QuotaServiceAsyncStub]:
    """The quota service's stub on a channel of its own."""
    async with connect(settings, settings.quota_address) as channel:
        yield quota_pb2_grpc.QuotaServiceStub(channel)
