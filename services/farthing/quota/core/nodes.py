"""One node of the budget tree: its limits, what is held and spent, and the turn of its periods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from typing import NamedTuple

from farthing.quota.core.rates import Window

_DAY_MS = 86_400_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class Period(IntEnum):
    """How long a budget lasts; days and months begin at 00:00 UTC. Numbers as in quota.v1."""

    TOTAL = 1
    DAY = 2
    MONTH = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What a node may use; None is no limit of its own."""

    budget_nano_usd: int | None = None
    period: Period = Period.TOTAL
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


NO_LIMITS = Limits()


class Node(NamedTuple):
    """A node and where it stands. Money in nano-USD; `day` and `month` count from 1970 and from year 0."""

    name: str
    create_ms: int
    limits: Limits = NO_LIMITS
    held_nano_usd: int = 0
    total_spent_nano_usd: int = 0
    day: int = 0
    day_spent_nano_usd: int = 0
    month: int = 0
    month_spent_nano_usd: int = 0
    # What late settlements found no money for: spent outside the budget, told apart, never hidden.
    unfunded_nano_usd: int = 0
    requests: Window = ()
    tokens: Window = ()


def roll(node: Node, now_ms: int) -> Node:
    """Begin the day and month of `now_ms` if they are later than the node's. Never goes back.

    What is held stays held and is spent in the period in which it is settled, so that spent + held
    never exceeds the budget of any period.
    """
    day = now_ms // _DAY_MS
    if day <= node.day:
        return node
    today = date.fromordinal(_EPOCH_ORDINAL + day)
    month = today.year * 12 + today.month - 1
    return node._replace(
        day=day,
        day_spent_nano_usd=0,
        month=month,
        month_spent_nano_usd=node.month_spent_nano_usd if month == node.month else 0,
    )


def spent(node: Node) -> int:
    """Spent in the node's current period, nano-USD. Roll the node first."""
    if node.limits.period is Period.DAY:
        return node.day_spent_nano_usd
    if node.limits.period is Period.MONTH:
        return node.month_spent_nano_usd
    return node.total_spent_nano_usd


def remaining(node: Node) -> int | None:
    """Left to hold, nano-USD, never negative; None without a budget. Roll the node first."""
    budget = node.limits.budget_nano_usd
    if budget is None:
        return None
    return max(0, budget - spent(node) - node.held_nano_usd)


def spend(node: Node, amount_nano_usd: int, *, freed_nano_usd: int) -> Node:
    """Book `amount` as spent and free `freed` of what is held. Roll the node first."""
    return node._replace(
        held_nano_usd=node.held_nano_usd - freed_nano_usd,
        total_spent_nano_usd=node.total_spent_nano_usd + amount_nano_usd,
        day_spent_nano_usd=node.day_spent_nano_usd + amount_nano_usd,
        month_spent_nano_usd=node.month_spent_nano_usd + amount_nano_usd,
    )


def period_start_ms(node: Node) -> int:
    """When the current period began: the node's own beginning for TOTAL. Roll the node first."""
    if node.limits.period is Period.DAY:
        return node.day * _DAY_MS
    if node.limits.period is Period.MONTH:
        return _month_start_ms(node.month)
    return node.create_ms


def period_end_ms(node: Node) -> int | None:
    """When the current period ends; None for TOTAL. Roll the node first."""
    if node.limits.period is Period.DAY:
        return (node.day + 1) * _DAY_MS
    if node.limits.period is Period.MONTH:
        return _month_start_ms(node.month + 1)
    return None


def _month_start_ms(month: int) -> int:
    first = date(month // 12, month % 12 + 1, 1)
    return (first.toordinal() - _EPOCH_ORDINAL) * _DAY_MS
