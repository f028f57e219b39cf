"""Budget and rate options that `keys create` and `budget set` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from farthing.api.quota.v1 import quota_pb2
from farthing.cli.request import USD
from farthing.kit.money import format_usd

_F = TypeVar("_F", bound=Callable[..., Any])

PERIODS = {
    "total": quota_pb2.BUDGET_PERIOD_TOTAL,
    "day": quota_pb2.BUDGET_PERIOD_DAY,
    "month": quota_pb2.BUDGET_PERIOD_MONTH,
}


def limit_options(command: _F) -> _F:
    """--budget, --period, --rpm and --tpm."""
    for option in (
        click.option("--tpm", type=click.IntRange(0), help="Tokens per minute."),
        click.option("--rpm", type=click.IntRange(0), help="Requests per minute."),
        click.option(
            "--period", type=click.Choice(list(PERIODS)), default="total", show_default=True
        ),
        click.option(
            "--budget", "budget_nano_usd", type=USD, help="Money per period, e.g. 25.00."
        ),
    ):
        command = option(command)
    return command


def make_limits(
    budget_nano_usd: int | None, period: str, rpm: int | None, tpm: int | None
) -> quota_pb2.Limits:
    """The limits as typed; what was left out stays unlimited."""
    return quota_pb2.Limits(
        budget_nano_usd=budget_nano_usd,
        period=PERIODS[period],
        requests_per_minute=rpm,
        tokens_per_minute=tpm,
    )


def describe_limits(limits: quota_pb2.Limits) -> str:
    """In a few words."""
    words = []
    if limits.HasField("budget_nano_usd"):
        names = {number: name for name, number in PERIODS.items()}
        period = names.get(limits.period, "total")
        words.append(
            f"{format_usd(limits.budget_nano_usd)} {'in all' if period == 'total' else f'a {period}'}"
        )
    if limits.HasField("requests_per_minute"):
        words.append(f"{limits.requests_per_minute} requests/min")
    if limits.HasField("tokens_per_minute"):
        words.append(f"{limits.tokens_per_minute} tokens/min")
    return ", ".join(words) or "none"
