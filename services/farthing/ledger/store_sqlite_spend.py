"""Turns a spend query into SQL: whole hours from rollups, the rest from charges, all values bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farthing.ledger.core.charges import CostKind, CostUnit
from farthing.ledger.core.spend import (
    FIELDS,
    HOUR_NS,
    Dimension,
    LineSum,
    SpendFilter,
    SpendQuery,
    SpendResult,
    SpendRow,
    format_day,
    format_hour,
    parse_day,
    parse_hour,
    sort_lines,
    split_window,
)

_SUMS = (
    "total_nano_usd", "charge_count", "input_token_count", "output_token_count",
    "waste_nano_usd", "unpriced_count",
)  # fmt: skip
_ROLLUP_SUMS = ", ".join(f"t.{name}" for name in _SUMS)
_CHARGE_SUMS = (
    "t.total_nano_usd, 1 AS charge_count, t.input_token_count, t.output_token_count, "
    "iif(t.waste <> '', t.total_nano_usd, 0) AS waste_nano_usd, "
    "t.price_version = '' AS unpriced_count"
)
_LINES = "l.kind, l.unit, l.amount_nano_usd, l.quantity, l.estimated"
_CHARGE_HOUR = f"(t.charge_time_ns / {HOUR_NS})"


@dataclass(frozen=True, slots=True)
class _Source:
    """A part of the books: a table, its lines, and which of its rows count."""

    table: str
    key: str
    hour: str
    sums: str
    condition: str
    values: tuple[object, ...]


def run_query(connection: sqlite3.Connection, query: SpendQuery) -> SpendResult:
    """Answers one query; call inside a read transaction when several must agree."""
    sources = _sources(query)
    if not sources:
        empty = () if query.group_by else (SpendRow((), 0, 0, 0, 0, 0, 0),)
        return SpendResult(empty, 0, False)
    names = [f"d{index}" for index in range(len(query.group_by))]
    groups = ", ".join(names)
    head, values = _union(sources, query.group_by, lines=False)
    sums = ", ".join(f"coalesce(sum({name}), 0)" for name in _SUMS)
    top_sql = (
        f"SELECT {groups + ', ' if names else ''}{sums} FROM ({head})"
        f"{' GROUP BY ' + groups if names else ''}"
        f" ORDER BY coalesce(sum(total_nano_usd), 0) DESC{', ' + groups if names else ''} LIMIT ?"
    )
    found: list[tuple[Any, ...]] = connection.execute(
        top_sql, (*values, query.row_limit + 1)
    ).fetchall()
    truncated = len(found) > query.row_limit
    lines: dict[tuple[object, ...], list[LineSum]] = {}
    if query.with_lines:
        lines = _read_lines(connection, query, sources, names, truncated)
    count = len(names)
    rows = tuple(
        _make_row(
            _show_values(row[:count], query.group_by), row[count:], lines.get(row[:count])
        )
        for row in found[: query.row_limit]
    )
    total = sum(row.total_nano_usd for row in rows)
    if truncated:
        total_sql = f"SELECT coalesce(sum(total_nano_usd), 0) FROM ({head})"
        (total,) = connection.execute(total_sql, values).fetchone()
    return SpendResult(rows, total, truncated)


def _make_row(
    values: tuple[str, ...], sums: tuple[int, ...], lines: Sequence[LineSum] | None
) -> SpendRow:
    total, charges, inputs, outputs, waste, unpriced = sums
    return SpendRow(
        values, total, charges, inputs, outputs, waste, unpriced, sort_lines(lines or ())
    )


def _read_lines(
    connection: sqlite3.Connection,
    query: SpendQuery,
    sources: Sequence[_Source],
    names: Sequence[str],
    truncated: bool,
) -> dict[tuple[object, ...], list[LineSum]]:
    body, values = _union(sources, query.group_by, lines=True)
    groups = ", ".join(names)
    prefix = groups + ", " if names else ""
    sql = (
        f"SELECT {prefix}kind, unit, sum(amount_nano_usd), sum(quantity), max(estimated) "
        f"FROM ({body})"
    )
    if truncated and names:
        head, head_values = _union(sources, query.group_by, lines=False)
        sql += (
            f" WHERE ({groups}) IN (SELECT {groups} FROM ({head}) GROUP BY {groups}"
            f" ORDER BY sum(total_nano_usd) DESC, {groups} LIMIT ?)"
        )
        values = (*values, *head_values, query.row_limit)
    sql += f" GROUP BY {prefix}kind, unit"
    found: dict[tuple[object, ...], list[LineSum]] = {}
    count = len(names)
    for row in connection.execute(sql, values):
        kind, unit, amount, quantity, estimated = row[count:]
        line = LineSum(CostKind(kind), CostUnit(unit), amount, quantity, bool(estimated))
        found.setdefault(row[:count], []).append(line)
    return found


def _sources(query: SpendQuery) -> list[_Source]:
    sources: list[_Source] = []
    windows: Sequence[tuple[int, int]] = ((query.start_ns, query.end_ns),)
    if query.rolled_up:
        split = split_window(query.start_ns, query.end_ns)
        windows = split.edges
        if split.first_hour < split.end_hour:
            condition, values = filter_sql(query.filters, "t.hour")
            sources.append(
                _Source(
                    "spend_rollups",
                    "rollup_row",
                    "t.hour",
                    _ROLLUP_SUMS,
                    f"t.hour >= ? AND t.hour < ?{condition}",
                    (split.first_hour, split.end_hour, *values),
                ),
            )
    for start_ns, end_ns in windows:
        condition, values = filter_sql(query.filters)
        sources.append(
            _Source(
                "charges",
                "charge_row",
                _CHARGE_HOUR,
                _CHARGE_SUMS,
                f"t.charge_time_ns >= ? AND t.charge_time_ns < ?{condition}",
                (start_ns, end_ns, *values),
            ),
        )
    return sources


def filter_sql(
    filters: Sequence[SpendFilter], hour: str = _CHARGE_HOUR
) -> tuple[str, tuple[object, ...]]:
    """Filters as conditions to append to a WHERE over table alias `t`, and their values."""
    sql = ""
    values: list[object] = []
    for item in filters:
        sql += f" AND {_column(item.dimension, hour)} IN ({', '.join('?' * len(item.values))})"
        values.extend(_read_value(item.dimension, value) for value in item.values)
    return sql, tuple(values)


def _union(
    sources: Sequence[_Source], group_by: Sequence[Dimension], *, lines: bool
) -> tuple[str, tuple[object, ...]]:
    parts: list[str] = []
    values: list[object] = []
    for source in sources:
        groups = "".join(
            f"{_column(dimension, source.hour)} AS d{index}, "
            for index, dimension in enumerate(group_by)
        )
        table = f"{source.table} AS t"
        if lines:
            line_table = "charge_lines" if source.table == "charges" else "spend_rollup_lines"
            table += f" JOIN {line_table} AS l USING ({source.key})"
        parts.append(
            f"SELECT {groups}{_LINES if lines else source.sums} FROM {table} "
            f"WHERE {source.condition}"
        )
        values.extend(source.values)
    return " UNION ALL ".join(parts), tuple(values)


def _column(dimension: Dimension, hour: str) -> str:
    if dimension is Dimension.HOUR:
        return hour
    return f"{hour} / 24" if dimension is Dimension.DAY else f"t.{FIELDS[dimension]}"


def _read_value(dimension: Dimension, text: str) -> object:
    if dimension is Dimension.HOUR:
        return parse_hour(text)
    return parse_day(text) if dimension is Dimension.DAY else text


def _show_values(row: Sequence[object], group_by: Sequence[Dimension]) -> tuple[str, ...]:
    shown: list[str] = []
    for value, dimension in zip(row, group_by, strict=True):
        if isinstance(value, int):
            shown.append(
                format_hour(value) if dimension is Dimension.HOUR else format_day(value)
            )
        else:
            shown.append(str(value))
    return tuple(shown)
