"""Tables as CSV files: exact amounts, and no cell that a spreadsheet would run as a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from farthing.ledger.console.formats import show_exact_usd
from farthing.ledger.console.overview import rest_of
from farthing.ledger.core.charges import Charge
from farthing.ledger.core.spans import TraceBalance
from farthing.ledger.core.spend import Dimension, SpendResult, SpendRow, format_hour

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_SUM_COLUMNS = (
    "total_nano_usd", "total_usd", "waste_nano_usd", "charge_count", "unpriced_charge_count",
    "input_token_count", "output_token_count",
)  # fmt: skip


def write_spend(dimension: Dimension, result: SpendResult, total: SpendRow) -> str:
    """One row per value; what a row limit cut off is the last row, so that the sum is the total."""
    rows = list(result.rows)
    lines = [(row.values[0], row) for row in rows]
    if result.truncated:
        lines.append(("(all others)", rest_of(total, rows)))
    return _write(
        (dimension.value, *_SUM_COLUMNS),
        (
            (
                label, row.total_nano_usd, show_exact_usd(row.total_nano_usd),
                row.waste_nano_usd, row.charge_count, row.unpriced_count,
                row.input_token_count, row.output_token_count,
            )
            for label, row in lines
        ),
    )  # fmt: skip


def write_charges(charges: Iterable[Charge]) -> str:
    """One row per cost line; amounts add up to the charges' totals."""
    return _write(
        (
            "charge_id", "request_id", "trace_id", "span_id", "charge_time_unix_ns", "hour",
            "organisation", "cost_centre", "team", "key", "service", "model", "tier", "region",
            "instance_id", "task", "waste", "price_version", "kind", "amount_nano_usd",
            "amount_usd", "quantity", "unit", "estimated",
        ),
        (
            (
                charge.charge_id, charge.request_id, charge.trace_id, charge.span_id,
                charge.charge_time_ns, format_hour(charge.charge_time_ns // 3_600_000_000_000),
                charge.organisation_id, charge.cost_centre_id, charge.team_id, charge.key_id,
                charge.service, charge.model, charge.tier, charge.region, charge.instance_id,
                charge.task, charge.waste, charge.price_version, line.kind,
                line.amount_nano_usd, show_exact_usd(line.amount_nano_usd), line.quantity,
                line.unit, str(line.estimated).lower(),
            )
            for charge in charges
            for line in charge.cost_lines
        ),
    )  # fmt: skip


def write_balances(balances: Iterable[TraceBalance]) -> str:
    """One row per trace."""
    return _write(
        ("trace_id", "span_count", "span_nano_usd", "charge_nano_usd", "agrees"),
        (
            (
                balance.trace_id, balance.span_count, balance.span_nano_usd,
                balance.charge_nano_usd, str(balance.agrees).lower(),
            )
            for balance in balances
        ),
    )  # fmt: skip


def _write(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_defuse(cell) for cell in row])
    return file.getvalue()


def _defuse(cell: object) -> object:
    # Only text can be a formula; a leading quote makes spreadsheets take it as text.
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and text.startswith(_FORMULA_STARTS) else cell
