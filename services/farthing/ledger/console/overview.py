"""The first page: what was spent by whom on what, and where it was of no use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from farthing.ledger.console.formats import bar_width
from farthing.ledger.console.windows import HOUR_NS, Window
from farthing.ledger.core.requests import RequestSummary
from farthing.ledger.core.spend import (
    MAX_ROW_LIMIT,
    Dimension,
    SpendQuery,
    SpendResult,
    SpendRow,
    format_day,
    format_hour,
    parse_day,
    parse_hour,
)
from farthing.ledger.store import LedgerStore

PANELS = (
    (Dimension.ORGANISATION, "Tenants", "Tenant"),
    (Dimension.MODEL, "Models", "Model"),
    (Dimension.REGION, "Regions", "Region"),
)
SHOWN_ROW_COUNT = 12
RECENT_COUNT = 50
_CHART_HOURS = 168
_CHART_DAYS = 180


@dataclass(frozen=True, slots=True)
class SpendLine:
    """One row of a table, with the length of its bar in thousandths of the dearest one."""

    label: str
    row: SpendRow
    bar: int
    # The part of the bar that is waste, in the same thousandths.
    waste_bar: int
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A table of spend by one dimension; its lines add up to the total."""

    dimension: Dimension
    title: str
    heading: str
    lines: tuple[SpendLine, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the chart over time: amounts in nano-USD, geometry in chart units."""

    label: str
    total_nano_usd: int
    x: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Spend over time, by hour or by day; 1000 wide and 120 high."""

    unit: str
    columns: tuple[Column, ...]
    most_nano_usd: int
    # True when the window reaches further back than the chart.
    cut: bool


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything the page shows, from one state of the books."""

    total: SpendRow
    panels: tuple[Panel, ...]
    chart: Chart | None
    requests: tuple[RequestSummary, ...]
    unpriced_span_count: int


async def read_overview(store: LedgerStore, window: Window) -> Overview:
    """Asks for all sums at once, so that they agree with each other."""
    bounds = (window.start_ns, window.end_ns)
    chart_start_ns = max(window.start_ns, window.end_ns - _CHART_HOURS * HOUR_NS)
    queries = [
        SpendQuery(*bounds),
        *(
            SpendQuery(*bounds, (dimension,), row_limit=SHOWN_ROW_COUNT, with_lines=False)
            for dimension, _, _ in PANELS
        ),
        SpendQuery(
            chart_start_ns,
            window.end_ns,
            (Dimension.HOUR,),
            row_limit=MAX_ROW_LIMIT,
            with_lines=False,
        ),
        SpendQuery(*bounds, (Dimension.DAY,), row_limit=MAX_ROW_LIMIT, with_lines=False),
    ]
    whole, *panels, hours, days = await store.query_spend(queries)
    total = whole.rows[0]
    return Overview(
        total=total,
        panels=tuple(
            Panel(dimension, title, heading, make_lines(result, total))
            for (dimension, title, heading), result in zip(PANELS, panels, strict=True)
        ),
        chart=_make_chart(window, hours, days),
        requests=await store.recent_requests(*bounds, RECENT_COUNT),
        unpriced_span_count=await store.count_unpriced_spans(*bounds),
    )


def make_lines(result: SpendResult, total: SpendRow) -> tuple[SpendLine, ...]:
    """The rows of a result; what the row limit cut off becomes one last line."""
    rest = rest_of(total, result.rows) if result.truncated else None
    rows = [*result.rows, *([rest] if rest else [])]
    most = max((row.total_nano_usd for row in rows), default=0)
    return tuple(
        SpendLine(
            "All others" if row is rest else row.values[0] or "(none)",
            row,
            bar_width(row.total_nano_usd, most),
            bar_width(row.waste_nano_usd, most),
            row is rest,
        )
        for row in rows
    )


def rest_of(total: SpendRow, rows: Iterable[SpendRow]) -> SpendRow:
    """What the rows leave of the total."""
    known = list(rows)
    return SpendRow(
        ("",) * (len(known[0].values) if known else 1),
        total.total_nano_usd - sum(row.total_nano_usd for row in known),
        total.charge_count - sum(row.charge_count for row in known),
        total.input_token_count - sum(row.input_token_count for row in known),
        total.output_token_count - sum(row.output_token_count for row in known),
        total.waste_nano_usd - sum(row.waste_nano_usd for row in known),
        total.unpriced_count - sum(row.unpriced_count for row in known),
    )


def _make_chart(window: Window, hours: SpendResult, days: SpendResult) -> Chart | None:
    by_day = {parse_day(row.values[0]): row.total_nano_usd for row in days.rows}
    if not by_day or window.name == "1h":
        return None
    last_hour = (window.end_ns - 1) // HOUR_NS
    if window.start_ns:
        first_hour = window.start_ns // HOUR_NS
    else:
        first_hour = min(by_day) * 24
    if last_hour - first_hour <= _CHART_HOURS:
        by_hour = {parse_hour(row.values[0]): row.total_nano_usd for row in hours.rows}
        labels = range(max(first_hour, last_hour - _CHART_HOURS), last_hour + 1)
        bars = [(format_hour(hour), by_hour.get(hour, 0)) for hour in labels]
        return _draw("hour", bars, cut=False)
    last_day = last_hour // 24
    first_day = max(first_hour // 24, last_day - _CHART_DAYS)
    bars = [(format_day(day), by_day.get(day, 0)) for day in range(first_day, last_day + 1)]
    return _draw("day", bars, cut=first_day > first_hour // 24)


def _draw(unit: str, bars: Sequence[tuple[str, int]], *, cut: bool) -> Chart:
    most = max(amount for _, amount in bars)
    step = 1000 / len(bars)
    width = max(step * 0.82, min(step, 1.5))
    columns = tuple(
        Column(
            label,
            amount,
            round(index * step + (step - width) / 2, 2),
            round(width, 2),
            round(bar_width(amount, most) * 0.12, 2),
        )
        for index, (label, amount) in enumerate(bars)
    )
    return Chart(unit, columns, most, cut)
