"""Usage and cost lines as values."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from farthing.kit.money import NanoUsd


class CostKind(enum.StrEnum):
    """What a line pays for; values are the names used in JSON, on spans and in the ledger."""

    COMPUTE = "compute"
    ENERGY = "energy"
    EGRESS = "egress"
    TOKENS = "tokens"
    CACHE = "cache"


class CostUnit(enum.StrEnum):
    """The unit of a line's quantity."""

    US = "us"
    UJ = "uj"
    BYTES = "bytes"
    TOKENS = "tokens"
    COUNT = "count"


class CostLine(NamedTuple):
    """One priced line. `estimated` is true when quantity or price is an estimate."""

    kind: CostKind
    amount_nano_usd: NanoUsd
    quantity: int
    unit: CostUnit
    estimated: bool = False


class Usage(NamedTuple):
    """What one attempt used. Counts include their sub-counts; see common.proto."""

    input_token_count: int = 0
    output_token_count: int = 0
    cached_input_token_count: int = 0
    reasoning_token_count: int = 0
    queue_us: int = 0
    prefill_us: int = 0
    decode_us: int = 0
    compute_us: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    energy_uj: int = 0
    energy_estimated: bool = False

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        counts = map(int.__add__, self[:-1], other[:-1])
        return Usage._make((*counts, self.energy_estimated or other.energy_estimated))


def sum_lines(lines: Iterable[CostLine]) -> NanoUsd:
    """Add up amounts."""
    return NanoUsd(sum(line.amount_nano_usd for line in lines))


def merge_lines(lines: Iterable[CostLine]) -> tuple[CostLine, ...]:
    """Add lines of the same kind together, in order of first appearance. The sum is unchanged."""
    merged: dict[CostKind, CostLine] = {}
    for line in lines:
        earlier = merged.get(line.kind)
        merged[line.kind] = (
            line
            if earlier is None
            else earlier._replace(
                amount_nano_usd=NanoUsd(earlier.amount_nano_usd + line.amount_nano_usd),
                quantity=earlier.quantity + line.quantity,
                estimated=earlier.estimated or line.estimated,
            )
        )
    return tuple(merged.values())


def cap_lines(
    lines: Iterable[CostLine], limit_nano_usd: int
) -> tuple[tuple[CostLine, ...], NanoUsd]:
    """Cut lines so that their sum is at most `limit_nano_usd` (below 0: 0); returns them and what was cut off.

    A hold is a promise: what an engine used beyond it (a step that took longer than its share) is the operator's,
    never the tenant's. Later lines are cut first.
    """
    left, kept = max(0, limit_nano_usd), []
    cut = 0
    for line in lines:
        amount = min(line.amount_nano_usd, left)
        cut += line.amount_nano_usd - amount
        left -= amount
        kept.append(
            line
            if amount == line.amount_nano_usd
            else line._replace(amount_nano_usd=NanoUsd(amount))
        )
    return tuple(kept), NanoUsd(cut)
