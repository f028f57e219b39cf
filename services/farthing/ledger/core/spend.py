"""Spend by dimension: queries, sums over charges, and hourly rollups that give the same sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from operator import attrgetter

from farthing.ledger.core.charges import Charge, CostKind, CostUnit

HOUR_NS = 3_600_000_000_000
DEFAULT_ROW_LIMIT = 1_000
MAX_ROW_LIMIT = 10_000


class Dimension(StrEnum):
    """What spend can be grouped and filtered by; the value is also its name in URLs."""

    ORGANISATION = "organisation"
    COST_CENTRE = "cost_centre"
    TEAM = "team"
    KEY = "key"
    MODEL = "model"
    REGION = "region"
    SERVICE = "service"
    TIER = "tier"
    TRACE = "trace"
    TASK = "task"
    REQUEST = "request"
    HOUR = "hour"
    DAY = "day"


# Dimensions that are a text field of the charge.
FIELDS: Mapping[Dimension, str] = {
    Dimension.ORGANISATION: "organisation_id",
    Dimension.COST_CENTRE: "cost_centre_id",
    Dimension.TEAM: "team_id",
    Dimension.KEY: "key_id",
    Dimension.MODEL: "model",
    Dimension.REGION: "region",
    Dimension.SERVICE: "service",
    Dimension.TIER: "tier",
    Dimension.TRACE: "trace_id",
    Dimension.TASK: "task",
    Dimension.REQUEST: "request_id",
}
# One trace or request is few charges: rolling them up would copy the charges.
UNROLLED = frozenset({Dimension.TRACE, Dimension.REQUEST})
ROLLUP_DIMENSIONS = tuple(dimension for dimension in FIELDS if dimension not in UNROLLED)
_rollup_fields = attrgetter(*(FIELDS[dimension] for dimension in ROLLUP_DIMENSIONS))


@dataclass(frozen=True, slots=True)
class SpendFilter:
    """Keeps charges whose dimension has one of the values."""

    dimension: Dimension
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """Sums over [start_ns, end_ns), Unix nanoseconds, grouped in the order of `group_by`."""

    start_ns: int
    end_ns: int
    group_by: tuple[Dimension, ...] = ()
    filters: tuple[SpendFilter, ...] = ()
    row_limit: int = DEFAULT_ROW_LIMIT
    # Whether rows tell their cost by kind; that takes as long as everything else together.
    with_lines: bool = True

    @property
    def rolled_up(self) -> bool:
        """True when hourly rollups hold every dimension that is asked for."""
        asked = {*self.group_by, *(item.dimension for item in self.filters)}
        return not asked & UNROLLED


@dataclass(frozen=True, slots=True)
class LineSum:
    """Cost of one kind: amount in nano-USD, quantity in `unit`; estimated if any part was."""

    kind: CostKind
    unit: CostUnit
    amount_nano_usd: int
    quantity: int
    estimated: bool


@dataclass(frozen=True, slots=True)
class SpendRow:
    """One group's sums."""

    values: tuple[str, ...]
    total_nano_usd: int
    charge_count: int
    input_token_count: int
    output_token_count: int
    waste_nano_usd: int
    unpriced_count: int
    cost_lines: tuple[LineSum, ...] = ()


@dataclass(frozen=True, slots=True)
class SpendResult:
    """Rows dearest first; the total also covers rows beyond the limit."""

    rows: tuple[SpendRow, ...]
    total_nano_usd: int
    truncated: bool


@dataclass(slots=True)
class Sums:
    """Running sums of one group of charges."""

    total_nano_usd: int = 0
    charge_count: int = 0
    input_token_count: int = 0
    output_token_count: int = 0
    waste_nano_usd: int = 0
    unpriced_count: int = 0
    lines: dict[tuple[CostKind, CostUnit], tuple[int, int, bool]] = field(default_factory=dict)

    def add(self, charge: Charge) -> None:
        """Adds one charge."""
        self.total_nano_usd += charge.total_nano_usd
        self.charge_count += 1
        self.input_token_count += charge.usage.input_token_count
        self.output_token_count += charge.usage.output_token_count
        self.waste_nano_usd += charge.waste_nano_usd
        self.unpriced_count += charge.unpriced
        for line in charge.cost_lines:
            amount, quantity, estimated = self.lines.get((line.kind, line.unit), (0, 0, False))
            self.lines[line.kind, line.unit] = (
                amount + line.amount_nano_usd,
                quantity + line.quantity,
                estimated or line.estimated,
            )

    def row(self, values: tuple[str, ...], *, with_lines: bool = True) -> SpendRow:
        """The sums as a row of a result."""
        lines = (
            LineSum(kind, unit, amount, quantity, estimated)
            for (kind, unit), (amount, quantity, estimated) in self.lines.items()
        )
        return SpendRow(
            values, self.total_nano_usd, self.charge_count, self.input_token_count,
            self.output_token_count, self.waste_nano_usd, self.unpriced_count,
            sort_lines(lines) if with_lines else (),
        )  # fmt: skip


RollupKey = tuple[int, tuple[str, ...]]


def sort_lines(lines: Iterable[LineSum]) -> tuple[LineSum, ...]:
    """Dearest first, then by name, so that equal sums print equally everywhere."""
    return tuple(sorted(lines, key=lambda line: (-line.amount_nano_usd, line.kind, line.unit)))


def sum_by_hour(charges: Iterable[Charge]) -> dict[RollupKey, Sums]:
    """Sums per hour (number since 1970) and value of every rolled-up dimension, in their order."""
    rollups: dict[RollupKey, Sums] = {}
    for charge in charges:
        key = (charge.charge_time_ns // HOUR_NS, _rollup_fields(charge))
        rollups.setdefault(key, Sums()).add(charge)
    return rollups


def sum_spend(charges: Iterable[Charge], query: SpendQuery) -> SpendResult:
    """Answers a query from the charges themselves."""
    groups: dict[tuple[str, ...], Sums] = {}
    for charge in charges:
        if query.start_ns <= charge.charge_time_ns < query.end_ns and matches(
            charge, query.filters
        ):
            values = tuple(dimension_value(charge, item) for item in query.group_by)
            groups.setdefault(values, Sums()).add(charge)
    if not query.group_by and not groups:
        groups[()] = Sums()
    rows = sorted(
        (sums.row(values, with_lines=query.with_lines) for values, sums in groups.items()),
        key=lambda row: (-row.total_nano_usd, row.values),
    )
    return SpendResult(
        tuple(rows[: query.row_limit]),
        sum(row.total_nano_usd for row in rows),
        len(rows) > query.row_limit,
    )


def matches(charge: Charge, filters: Iterable[SpendFilter]) -> bool:
    """True when all filters hold."""
    return all(dimension_value(charge, item.dimension) in item.values for item in filters)


def dimension_value(charge: Charge, dimension: Dimension) -> str:
    """A charge's value of a dimension."""
    name = FIELDS.get(dimension)
    if name is not None:
        return str(getattr(charge, name))
    hour = charge.charge_time_ns // HOUR_NS
    return format_hour(hour) if dimension is Dimension.HOUR else format_day(hour // 24)


def format_hour(hour: int) -> str:
    """RFC 3339 of the beginning of an hour, UTC; hours count from 1970."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:00:00Z")


def format_day(day: int) -> str:
    """YYYY-MM-DD, UTC; days count from 1970."""
    return datetime.fromtimestamp(day * 86400, UTC).strftime("%Y-%m-%d")


def parse_hour(text: str) -> int:
    """The inverse of format_hour. Raises ValueError for anything else."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:00:00Z").replace(tzinfo=UTC)
    return int(moment.timestamp()) // 3600


def parse_day(text: str) -> int:
    """The inverse of format_day. Raises ValueError for anything else."""
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) // 86400


@dataclass(frozen=True, slots=True)
class HourSplit:
    """A window as whole hours [first_hour, end_hour) and the parts of hours around them, ns."""

    first_hour: int
    end_hour: int
    edges: tuple[tuple[int, int], ...]


def split_window(start_ns: int, end_ns: int) -> HourSplit:
    """Cuts a window so that rollups answer the whole hours and charges only the rest."""
    if end_ns <= start_ns:
        return HourSplit(0, 0, ())
    first_hour, end_hour = -(-start_ns // HOUR_NS), end_ns // HOUR_NS
    if first_hour >= end_hour:
        return HourSplit(0, 0, ((start_ns, end_ns),))
    edges = ((start_ns, first_hour * HOUR_NS), (end_hour * HOUR_NS, end_ns))
    return HourSplit(first_hour, end_hour, tuple(edge for edge in edges if edge[0] < edge[1]))
