"""Double entry: what a tenant owes for a kind of cost is what a region's pool of that kind gave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

from farthing.ledger.core.charges import Charge, CostKind


@dataclass(frozen=True, slots=True)
class Posting:
    """One side of an entry, nano-USD; exactly one of debit and credit is not zero."""

    account: str
    debit_nano_usd: int
    credit_nano_usd: int


class UnbalancedEntry(ValueError):
    """Debits and credits of one charge differ: a fault in this module, never in the input."""


def expense_account(charge: Charge, kind: CostKind) -> str:
    """The tenant's expense account for a kind of cost, down to the team."""
    owner = "/".join(
        quote(part, safe="")
        for part in (charge.organisation_id, charge.cost_centre_id, charge.team_id)
    )
    return f"expense:{owner}:{kind}"


def pool_account(charge: Charge, kind: CostKind) -> str:
    """The asset account that the work was drawn from: a region's pool of that kind."""
    return f"pool:{quote(charge.region, safe='')}:{kind}"


def make_postings(charge: Charge) -> tuple[Posting, ...]:
    """The balanced entry of a valid charge; kinds that cost nothing leave no posting."""
    amounts: dict[CostKind, int] = {}
    for line in charge.cost_lines:
        amounts[line.kind] = amounts.get(line.kind, 0) + line.amount_nano_usd
    postings: list[Posting] = []
    for kind, amount in amounts.items():
        if amount:
            postings.append(Posting(expense_account(charge, kind), amount, 0))
            postings.append(Posting(pool_account(charge, kind), 0, amount))
    debits, credits = sum_sides(postings)
    if not debits == credits == charge.total_nano_usd:
        raise UnbalancedEntry(
            f"charge {charge.charge_id}: debits {debits}, credits {credits}, "
            f"total {charge.total_nano_usd} nano-USD"
        )
    return tuple(postings)


def sum_sides(postings: Iterable[Posting]) -> tuple[int, int]:
    """Debits and credits, nano-USD."""
    debits = credits = 0
    for posting in postings:
        debits += posting.debit_nano_usd
        credits += posting.credit_nano_usd
    return debits, credits
