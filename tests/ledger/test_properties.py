"""What holds for any charges, in any order, delivered any number of times."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.ledger.core.charges import Charge, CostKind, CostLine, CostUnit, Tier, Waste
from farthing.ledger.core.postings import make_postings, sum_sides
from farthing.ledger.core.spend import HOUR_NS, Dimension, SpendFilter, SpendQuery
from farthing.ledger.store import ChargeQuery, LedgerStore, MemoryLedgerStore
from farthing.ledger.store_sqlite import SqliteLedgerStore

NOON_NS = 1_767_268_800_000_000_000
KINDS = [kind for kind in CostKind if kind]
UNITS = [unit for unit in CostUnit if unit]
GROUPS = st.lists(st.sampled_from(list(Dimension)), max_size=3, unique=True)

lines = st.lists(
    st.builds(
        CostLine,
        st.sampled_from(KINDS),
        st.integers(0, 10**12),
        st.integers(0, 10**12),
        st.sampled_from(UNITS),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def charges(draw: st.DrawFn) -> list[Charge]:
    made: list[Charge] = []
    for number in range(draw(st.integers(0, 12))):
        cost_lines = tuple(draw(lines))
        made.append(
            Charge(
                charge_id=f"charge_{number}",
                request_id=f"request_{number // 2}",
                organisation_id=draw(st.sampled_from(["acme", "rival", "ünï'\"%"])),
                cost_centre_id=draw(st.sampled_from(["", "rd"])),
                team_id=draw(st.sampled_from(["search", "ads"])),
                key_id="key_1",
                service="cloud",
                model=draw(st.sampled_from(["small", "large"])),
                tier=draw(st.sampled_from([tier for tier in Tier if tier])),
                region=draw(st.sampled_from(["edge-site", "cloud-a"])),
                cost_lines=cost_lines,
                total_nano_usd=sum(line.amount_nano_usd for line in cost_lines),
                charge_time_ns=NOON_NS + draw(st.integers(-2 * HOUR_NS, 2 * HOUR_NS)),
                waste=draw(st.sampled_from(list(Waste))),
                price_version=draw(st.sampled_from(["", "v1"])),
            )
        )
    return made


@given(charges())
def test_debits_equal_credits_equal_the_total(made: list[Charge]) -> None:
    for charge in made:
        assert sum_sides(make_postings(charge)) == (charge.total_nano_usd,) * 2


@given(
    made=charges(),
    data=st.data(),
    group_by=GROUPS,
    window=st.tuples(
        st.integers(-3 * HOUR_NS, 3 * HOUR_NS), st.integers(-3 * HOUR_NS, 3 * HOUR_NS)
    ),
    row_limit=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_redelivery_in_any_order_gives_the_same_books_on_every_store(
    made: list[Charge],
    data: st.DataObject,
    group_by: list[Dimension],
    window: tuple[int, int],
    row_limit: int,
) -> None:
    again = data.draw(st.lists(st.sampled_from(made), max_size=12)) if made else []
    delivered = data.draw(st.permutations([*made, *again]))
    cut = data.draw(st.integers(0, len(delivered)))
    filters: tuple[SpendFilter, ...] = ()
    if data.draw(st.booleans()):
        filters = (SpendFilter(Dimension.ORGANISATION, ("acme", "ünï'\"%")),)
    start_ns, end_ns = (NOON_NS + offset for offset in window)
    queries = [
        SpendQuery(0, 2**62),
        SpendQuery(start_ns, end_ns, tuple(group_by), filters, row_limit, len(made) % 4 > 0),
    ]

    async def deliver(store: LedgerStore) -> tuple[Any, ...]:
        await store.record_charges(delivered[:cut])
        await store.record_charges(delivered[cut:])
        books = await store.books()
        assert books.balanced
        assert books.charge_nano_usd == sum(charge.total_nano_usd for charge in made)
        return (
            books,
            await store.query_spend(queries),
            await store.list_charges(ChargeQuery(start_ns, end_ns, filters)),
            await store.recent_requests(start_ns, end_ns, 4),
        )

    async def compare() -> None:
        with tempfile.TemporaryDirectory() as directory:
            sqlite = SqliteLedgerStore(Path(directory))
            await sqlite.open()
            try:
                assert await deliver(MemoryLedgerStore()) == await deliver(sqlite)
            finally:
                await sqlite.close()

    asyncio.run(compare())


def test_group_sums_add_up_to_the_total(make_charge: Callable[..., Charge]) -> None:
    made = [
        make_charge(f"c{n}", n * 7, region=f"region-{n % 3}", team_id=f"team-{n % 2}")
        for n in range(20)
    ]

    async def check() -> None:
        store = MemoryLedgerStore()
        await store.record_charges(made)
        for dimension in Dimension:
            (result,) = await store.query_spend([SpendQuery(0, 2**62, (dimension,))])
            assert sum(row.total_nano_usd for row in result.rows) == result.total_nano_usd
            for row in result.rows:
                assert (
                    sum(line.amount_nano_usd for line in row.cost_lines) == row.total_nano_usd
                )

    asyncio.run(check())
