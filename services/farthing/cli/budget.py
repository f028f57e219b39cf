"""`farthing budget`: what every node of the tree may spend, has spent and has left."""

from __future__ import annotations

import click

from farthing.api.quota.v1 import quota_pb2
from farthing.cli.connection import call, current_settings, require_key, run
from farthing.cli.keys import quota_stub
from farthing.cli.limits import describe_limits, limit_options, make_limits
from farthing.cli.output import print_json, print_table, to_plain
from farthing.kit.money import format_usd


@click.group()
def budget() -> None:
    """Show and set budgets and rate limits."""


@budget.command("list")
@click.argument("node", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_budgets(node: str, as_json: bool) -> None:
    """List budgets: all that the key may see, or only NODE, e.g. team:acme/rd/search."""
    settings = current_settings()
    key = settings.admin_key or require_key(settings, admin=False)

    async def work() -> quota_pb2.ListBudgetsResponse:
        async with quota_stub(settings) as stub:
            return await call(
                stub.ListBudgets,
                quota_pb2.ListBudgetsRequest(node=node),
                key=key,
                address=settings.quota_address,
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
        return
    print_table(
        ("node", "limits", "spent", "held", "left"),
        [
            (
                item.node,
                describe_limits(item.limits),
                format_usd(item.spent_nano_usd),
                format_usd(item.held_nano_usd),
                format_usd(item.remaining_nano_usd)
                if item.HasField("remaining_nano_usd")
                else "",
            )
            for item in response.budgets
        ],
        right=(2, 3, 4),
    )


@budget.command("set")
@click.argument("node")
@limit_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_budget(
    node: str,
    budget_nano_usd: int | None,
    period: str,
    rpm: int | None,
    tpm: int | None,
    as_json: bool,
) -> None:
    """Set the limits of NODE; what is left out is unlimited.

    NODE is organisation:acme, cost_centre:acme/rd, team:acme/rd/search or key:key_….
    """
    settings = current_settings()
    admin_key = require_key(settings, admin=True)
    limits = make_limits(budget_nano_usd, period, rpm, tpm)

    async def work() -> quota_pb2.SetBudgetResponse:
        async with quota_stub(settings) as stub:
            return await call(
                stub.SetBudget,
                quota_pb2.SetBudgetRequest(node=node, limits=limits),
                key=admin_key,
                address=settings.quota_address,
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
    else:
        click.echo(f"{response.budget.node}: {describe_limits(response.budget.limits)}")
