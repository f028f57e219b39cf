"""`farthing spend`: who spent how much on what."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from farthing.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from farthing.cli.connection import call, connect, current_settings, require_key, run
from farthing.cli.output import print_json, print_table, to_plain
from farthing.kit.money import format_usd

_PREFIX = "SPEND_DIMENSION_"
_DIMENSIONS = tuple(
    value.name.removeprefix(_PREFIX).lower()
    for value in ledger_pb2.SpendDimension.DESCRIPTOR.values
    if value.number
)
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class MomentType(click.ParamType[datetime]):
    """An instant: RFC 3339 or a date (UTC), or how long ago: 30m, 24h, 7d, 2w."""

    name = "TIME"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """See click."""
        if isinstance(value, datetime):
            return value
        if ago := re.fullmatch(r"(\d+)([mhdw])", value):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time; write 24h, 7d, 2026-11-01 or 2026-11-01T12:00:00Z"
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class DimensionsType(click.ParamType[tuple[str, ...]]):
    """Dimensions with commas between them."""

    name = "DIMENSIONS"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """See click."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip().lower().replace("-", "_") for name in value.split(","))
        for name in names:
            if name not in _DIMENSIONS:
                self.fail(f"{name!r} is no dimension; use {', '.join(_DIMENSIONS)}", param, ctx)
        return names


@click.command()
@click.option(
    "--by",
    type=DimensionsType(),
    default="model,region",
    show_default=True,
    help=f"Any of {', '.join(_DIMENSIONS)}; several with commas.",
)
@click.option("--since", type=MomentType(), help="From: 24h, 7d, 2026-11-01, …")
@click.option("--until", type=MomentType(), help="Up to, not including.")
@click.option(
    "--where", multiple=True, help="dimension=value[,value…]; repeatable, all must hold."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def spend(
    by: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    where: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Sum what was spent, dearest first."""
    request = ledger_pb2.QuerySpendRequest(
        start_time=_timestamp(since),
        end_time=_timestamp(until),
        group_by=[_dimension(name) for name in by],
        filters=[_filter(text) for text in where],
        row_limit=limit,
    )
    settings = current_settings()
    key = settings.admin_key or require_key(settings, admin=False)

    async def work() -> ledger_pb2.QuerySpendResponse:
        async with connect(settings, settings.ledger_address) as channel:
            return await call(
                ledger_pb2_grpc.LedgerServiceStub(channel).QuerySpend,
                request,
                key=key,
                address=settings.ledger_address,
            )

    response = run(work())
    if as_json:
        print_json(to_plain(response))
        return
    print_table(
        (*by, "requests", "tokens in", "tokens out", "waste", "cost"),
        [
            (
                *row.values,
                str(row.charge_count),
                str(row.input_token_count),
                str(row.output_token_count),
                format_usd(row.waste_nano_usd) if row.waste_nano_usd else "",
                format_usd(row.total_nano_usd),
            )
            for row in response.rows
        ],
        right=tuple(range(len(by), len(by) + 5)),
    )
    more = " (more rows than shown; raise --limit)" if response.truncated else ""
    click.echo(f"\ntotal {format_usd(response.total_nano_usd)}{more}")


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def _dimension(name: str) -> str:
    return _PREFIX + name.upper()


def _filter(text: str) -> ledger_pb2.SpendFilter:
    name, mark, values = text.partition("=")
    name = name.strip().lower().replace("-", "_")
    if not mark or name not in _DIMENSIONS:
        raise click.BadParameter(
            f"{text!r}: write dimension=value with one of {', '.join(_DIMENSIONS)}",
            param_hint="--where",
        )
    return ledger_pb2.SpendFilter(dimension=_dimension(name), values=values.split(","))
